"""Centroids of other programs: files of older scikit-learns, every compression, hostile and broken files."""
import base64
import bz2
import io
import lzma
import os
import pickle
import random
import resource
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from foreign_files import CENTROIDS, Call, array, k_means, plain
from safetensors.torch import save

from framealign.exchange import scikit_learn_codebook
from framealign.exchange.scikit_learn_codebook import read_centroids, read_joblib_centroids

# joblib.dump(km, path, compress=("zlib", 9), protocol=...) of a MiniBatchKMeans(2) fitted on four points, its
# cluster_centers_ then set to CENTROIDS; base64.b85encode of the file.
REAL_FILES = {
    "scikit-learn 0.20.4 (its own joblib 0.13.2), Python 3.6, protocol 2": (
        "c-m!B-BQ&s5bimL-wKF`sGxAbzk^6c<bn%lK)hha4!z*U+-1_9NGfg8O;Q9LW^l$Id>Nm`N6<I$4Ro7!xX{eBo89d9<=gC@w-a-iai(REWTm"
        "lO2ZuE0Od9I%r83=NHWA@o74X4Z{s^rzX!nTkd7h*V!ayf%lK~7Nz`_6-#qHs$V_8{&K{A4V&W>q{$uJc5Ne2T~WiY(!HH%E+uh2YEc~M$U`"
        ">C-^CfvY?V`imQFiM8pz3v)6Y>{DfkGPJN;czAN$Qb&X$-c@d!Yzj}3|5##6({r<#xEL%cPch85jmwSJ5V~cB8RJDluR{RrJ`wGXm!MME-g%"
        "kzAHMe-h-O-l*6@ffJ`{<T5`r>o*9_>=2$C@b>8*Jk!sG2Ne^U2M>Vslg6Z9@Pp7|jzfXT~+?NmvH;{X>;;vtqCJ4fZrZ98aE`E#=$ubjQF<"
        "BZ1vdpo_B26&Ck1FS-*6iesW<|lZ4>z%Ux6a^p&-KHUagw1Tm`xnemwi^H`!Giat8>8$4tK(K*!co?T}bIZ_HUlFaQ_MxT&!<TFs<8gIM0Vg"
        "(#E5=o3IpmVe2d0+lTwTu;YL);6W5cum9k3ztFSrFn0B`EK~1kp0ffTU6gS>7(cdZ`?ImX8@sq&+ojr`cemX%B&w7a->E06a+lBGaZk*OIe~"
        "?Ih7~a{7DQJx`ZnN6t#5T70@Nq|SN1d(wUo`B>T_2}H^&s#!WlCD&%jZ57P-dJrcD&b)1*qmx|_VUV0|svfahf#`~_ih2KE"),
    "scikit-learn 0.22.2, joblib 0.14.1, Python 3.7, protocol 3": (
        "c-m!CTT|6A5bimLYXw9^R8Vf-4k8tfKJefSh!4z|p%1)}w@lg-Nu^D?O^SfS49<ALKjUxlC+I)$ALusi_@J3-HoMvV^6jM;o!A_uf)^@?)6!"
        "T`1nejiTp52aQOORsu_Sv=2XEyAw9cX3rM~BRiZuZSI;2ep(1ZaN2IwdrkJcQ>>M9J<5!5q&!V+|bA=0NEG+3R&@UGV^I*nUih*)QNX$9*i#"
        "&Q)410xQZmsZ0l9dhrwXMED4!>AsMBGN{{72?q`)C;cqI%61a1&pDwiivf8%1&VXvO##OBLfqmW6IM*T_jd!a8-`dsfMf4EXndhAB#*V3zNi"
        "mNk>&Zm`TnATq6T?!eQ5xQyz)bz|>cVT5+uXu7?h^5ZsvLP*rfO;5N}Py}R}C?C0*c>Gux%ZwP}Mh&@?h*A-?l24SHY%*04NO`<@R8K#scF*"
        "eT+E9GTT@Y92W=ea0+xQV^Gbq=??uKK2o;uPP9+1Lg8s?RHTALi&_buW1?;0|e%&S$vmOuFb}x8`XJ&#z#?+4}Yr-4+`Rr}?l%+j#Y66PAfb"
        "T3_JaKHTq;jthJN55h2f{Tr9th-cwp<g(>ys^76J<2gLKETei1zHim?M<ahVa%sDk%eA~%+;+W>b*U^?r7Np+SI*&aSI){giHUrIRXHyg<f3"
        "f&J%=YXzqNe`ke~dY+0#hYR5o|2&pn~s)G}BnGj#l)@nWzMx;C-q7h*V!CeaFdZWPypUN7hcxi)qKo|RGX2cZQ4p#"),
    "scikit-learn 1.1.3, joblib 1.1.1, Python 3.11, protocol 4": (
        "c-n1KPfrvv6d#twT~>q@4IWH18YL()36Z0bupTyX!XCVMeCf;<TbOAlZ3hHnf{A}1>CH#{0N(u~p8WtOeg)3@rYtTdHt9_J`g?u9_j|90&69"
        "Q`3d7&9J2_`Y#aUii$4v}71!u~lpWBp5_L$2=vKcI&@xeQMi%Y(vV1%}qG<=hA4*m4bO7L7>M&B;jYmfxMWauZI&aoejhQFjBI3yFkwaZPaE"
        "ypDCGlr?5F2FkGf?>YCLursjY4k2HxFVm9@1!*)u=0RVO+TCIqO2T;oTWUsc<iU^+t1Die%^3qt$d|wcQDLJjs5la2S5AYuD|iK3br_NmEo2"
        "+0Vb2a1!H<msF@R$%kXc|4vb@jtpX<~(lF@Jf=pM+k%ZT_b(+gGR#j2%Ln$-T8vWHlz1=W|?Y}gvEJ>xm(zb1tW;sztKNY;tx73i;SOWPeD_"
        "BV}8y{$`&5&IE#4}nC-9FjHZLvtG#?~4hAAQ0XxI`IEJi)<W@ccK8@JS+vsqe5n*LzSDti+=#jiR+)6g}#ld^s=E4DdZhd2-_<Bh7x8(_rsj"
        "v_l~koqhlM>##nX`%k?VNE|CwR#(VU2}bp(b?c702r|M_GXaX5XF7;m;*PkRG?K}WDDH{-Vo^L4D}m?XQ;M`sf12%$DC*K|Zk&|oyotlOsJe"
        "1>McPEc@sa{03#4c0%&=~s=RrxFjuO0bu@QlKs0*Vv0@SWnYDIdl#;fsTtkU=ol=nAH"),
}


def read(tmp_path, data: bytes, name: str = "km.bin") -> np.ndarray:
    path = tmp_path / name
    path.write_bytes(data)
    return read_centroids(path)


@pytest.mark.parametrize("program", REAL_FILES)
def test_real_files_of_older_versions(program, tmp_path):
    centroids = read(tmp_path, base64.b85decode(REAL_FILES[program]))
    assert centroids.dtype == ("f4" if "1.1.3" in program else "f8") and np.array_equal(centroids, CENTROIDS)


@pytest.mark.parametrize("module", (b"sklearn.cluster._kmeans", b"sklearn.cluster.k_means_"))
@pytest.mark.parametrize("wrapper", (b"joblib.numpy_pickle", b"sklearn.externals.joblib.numpy_pickle"))
@pytest.mark.parametrize("alignment", (None, 0, 5, 16))
@pytest.mark.parametrize("code, byte_order", (("f4", "<"), ("f8", "<"), ("f8", ">")))
def test_layouts_by_hand(module, wrapper, alignment, code, byte_order, tmp_path):
    """Module names before and after scikit-learn 0.22, its vendored joblib, with and without joblib 1.2's padding."""
    values = CENTROIDS.astype(byte_order + code)
    for order in "CF":
        data = array(code=code, content=values.tobytes(order), order=order, byte_order=byte_order, alignment=alignment,
                     wrapper=wrapper)
        found = read(tmp_path, k_means(data, module))
        assert found.dtype == np.dtype(code) and found.flags.c_contiguous and np.array_equal(found, CENTROIDS)


@pytest.mark.parametrize("dtype", ("f4", "f8"))
@pytest.mark.parametrize("compress", (0, 3, ("zlib", 9), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)))
def test_the_installed_joblib_and_scikit_learn(dtype, compress, tmp_path):
    joblib, cluster = pytest.importorskip("joblib"), pytest.importorskip("sklearn.cluster")
    points = np.random.default_rng(0).normal(size=(200, 5)).astype(dtype)
    km = cluster.MiniBatchKMeans(4, random_state=np.random.RandomState(1), n_init=1).fit(points)
    km.feature_names_in_ = np.array(["a", "b", "c", "d", "e"], dtype=object)     # an array of objects: a nested pickle
    expected = km.cluster_centers_.copy()
    for order in "CF":
        km.cluster_centers_ = np.asarray(expected, order=order)
        for protocol in (2, 3, 4, 5):
            joblib.dump(km, tmp_path / "km.bin", compress=compress, protocol=protocol)
            found = read_joblib_centroids(tmp_path / "km.bin")
            assert found.dtype == points.dtype and np.array_equal(found, expected)
    (tmp_path / "km.bin").write_bytes(pickle.dumps(km, 5))          # plain pickles, too
    assert np.array_equal(read_joblib_centroids(tmp_path / "km.bin"), expected)


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_npy_and_safetensors(tmp_path):
    """The content decides what a file is, not its name."""
    for values in (CENTROIDS, CENTROIDS.astype("f4"), np.asfortranarray(CENTROIDS), CENTROIDS.astype(">f8")):
        found = read(tmp_path, npy(values))
        assert np.array_equal(found, CENTROIDS) and found.dtype == values.dtype.newbyteorder("=")
    tensor = torch.from_numpy(CENTROIDS)
    for tensors in ({"x": tensor}, {"centroids": tensor, "counts": torch.ones(2)}, {"x": tensor.bfloat16()}):
        assert np.array_equal(read(tmp_path, save(tensors)), CENTROIDS)
    with pytest.raises(ValueError, match="must hold a tensor `centroids` or one"):
        read(tmp_path, save({"a": tensor, "b": tensor.clone()}))


def test_an_array_of_any_other_attribute_does_no_harm(tmp_path):
    more = plain("labels_") + array((4,), "i4", bytes(16)) + plain("flags") + array((3,), "b1", bytes(3))
    assert np.array_equal(read(tmp_path, k_means(array(), more=more)), CENTROIDS)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", (False, True))
def test_malicious_pickles_are_refused_by_name(protocol, inside, tmp_path):
    """Alone or as an attribute of an otherwise good k-means; nothing is executed."""
    marker = tmp_path / "executed"
    calls = {"system": Call(os.system, f"touch {marker}"), "builtins.eval": Call(eval, f"open({str(marker)!r}, 'w')"),
             "builtins.exec": Call(exec, "1"), "builtins.getattr": Call(getattr, Call(os.mkdir, str(marker)), "x"),
             "numpy.load": Call(np.load, str(marker)), "builtins.__import__": Call(__import__, "antigravity"),
             "mkdir": Call(os.mkdir, str(marker))}
    for name, call in calls.items():
        data = pickle.dumps(call, protocol)
        if inside:
            body = data[:-1] if protocol < 2 else data[2:-1]
            data = k_means(array(), more=plain("tol") + body)
        with pytest.raises(ValueError, match=rf"names [\w.]*{name if name != 'builtins.getattr' else ''}.*refused"):
            read(tmp_path, data)
    assert not marker.exists()


def test_malicious_opcodes(tmp_path):
    """The other roads to a call: INST, OBJ, NEWOBJ, dotted names, a name of computed parts, a nested pickle."""
    nested = array((1,), "O8", b"\x80\x02cos\nsystem\nU\x02ls\x85R.")
    for data in (b"(S'ls'\nios\nsystem\n.", b"(cos\nsystem\nS'ls'\no.", b"cos\nsystem\n)\x81.",
                 b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93\x8c\x02ls\x85R.",
                 b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x02ls\x85R.",
                 b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.", k_means(nested)):
        with pytest.raises(ValueError, match="names .*system.*refused"):
            read(tmp_path, data)
    for data in (b"\x82\x01.", b"P1\n.", k_means(b"Vx\nQ"), k_means(b"cnumpy\nndarray\n(K\x02K\x03tR")):
        with pytest.raises(ValueError, match="not readable as a k-means"):
            read(tmp_path, data)


BROKEN = {
    "empty": b"", "text": b"id path num_samples\n", "zip": b"PK\x03\x04" + bytes(40), "a number": b"\x80\x02K\x01.",
    "lz4": b"\x04\x22\x4d\x18" + bytes(40), "joblib 0.9": b"ZF0x10               x", "cut zlib": b"\x78\x9c\x01",
    "not fitted": b"\x80\x02csklearn.cluster._kmeans\nKMeans\n)\x81}b.",
    "cut off": k_means(array())[:-30], "shape too large": k_means(array((3, 3))),
    "1e12 numbers": k_means(array((10 ** 6, 10 ** 6))), "2^64 numbers": k_means(array((2 ** 32, 2 ** 32))),
    "negative": k_means(array((-2, -3))), "shape of text": k_means(array(("2", 3))), "no tuple": k_means(array([2, 3])),
    "one row": k_means(array((6,))), "no rows": k_means(array((0, 3), content=b"")),
    "whole numbers": k_means(array(code="i8")), "texts": k_means(array(code="S8")),
    "bad code": k_means(array(code="f9")),
    "structured": k_means(array(code="V8")), "bad order": k_means(array(order="X")),
    "NaN": k_means(array(content=CENTROIDS.tobytes()[:-8] + struct.pack("<d", float("nan")))),
    "npy cut": npy(CENTROIDS)[:-1], "npy of objects": npy(np.array([[None]])), "npy of one row": npy(CENTROIDS[0]),
    "npy of 1 TB": npy(CENTROIDS).replace(b"(2, 3), }" + b" " * 12, b"(99999999, 9999), }  "),
    "npy infinite": npy(np.full((2, 2), np.inf)), "npy head": npy(CENTROIDS)[:9],
    "safetensors cut": save({"x": torch.ones(2, 3)})[:-1], "safetensors of ints": save({"x": torch.ones(2, 3).int()}),
    "safetensors empty": save({})}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(name, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*km\.bin: [^\n]+$"):
        read(tmp_path, BROKEN[name])


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=str(path)):
            read_centroids(path)


BOMBS = {"zlib": zlib.compressobj, "gzip": lambda: zlib.compressobj(wbits=31), "bz2": bz2.BZ2Compressor,
         "xz": lambda: lzma.LZMACompressor(preset=0),
         "lzma": lambda: lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)}


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_is_bounded(name, tmp_path, monkeypatch):
    """A file of kilobytes that unpacks to 144 MiB is refused at 128 MiB; of other formats, a quarter at a quarter."""
    compressor, size = BOMBS[name](), 1 << 24
    if name != "zlib":
        size >>= 2
        monkeypatch.setattr(scikit_learn_codebook, "LIMIT_BYTES", scikit_learn_codebook.LIMIT_BYTES >> 2)
    data = b"".join([compressor.compress(bytes(size)) for _ in range(9)] + [compressor.flush()])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError, match=" 128 MiB" if name == "zlib" else " 32 MiB"):
        read(tmp_path, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20        # KiB: 1 GiB
    assert time.monotonic() - start < 5             # about 0.5 s on an idle core


def test_lzma_dictionary_is_bounded(tmp_path):
    """A header may ask for a dictionary of 4 GiB."""
    data = bytearray(lzma.compress(k_means(array()), lzma.FORMAT_ALONE))
    assert np.array_equal(read(tmp_path, bytes(data)), CENTROIDS)
    data[1:5] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError):
        read(tmp_path, b"\x5d\x00" + bytes(data[2:]))


def test_mutated_files_give_centroids_or_a_value_error(tmp_path):
    generator = random.Random(0)
    originals = [k_means(array()), k_means(array(alignment=7)), zlib.compress(k_means(array())), npy(CENTROIDS),
                 save({"centroids": torch.from_numpy(CENTROIDS)})]
    originals += [base64.b85decode(text) for text in REAL_FILES.values()]
    originals += [zlib.decompress(x) for x in originals[-3:]]
    for turn in range(700):
        data = bytearray(originals[turn % len(originals)])
        for _ in range(generator.randint(1, 5)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            found = read(tmp_path, bytes(data[:generator.randint(1, len(data))] if turn % 3 == 0 else data))
            assert found.ndim == 2 and np.isfinite(found).all()
        except ValueError as error:
            assert "km.bin" in str(error) and "\n" not in str(error)
