"""Centroids from files of other programs: scikit-learn's k-means saved by joblib, NumPy's .npy, .safetensors.

HuBERT's released codebook (`hubert_base_ls960_L9_km500.bin`) is a `MiniBatchKMeans` written by `joblib.dump`: a pickle
in which each array is a `NumpyArrayWrapper` followed by the array's raw bytes, as it is or compressed as a whole (zlib,
gzip, bz2, xz, lzma). It is read as data (`inert_pickle.py`): no joblib, no scikit-learn, nothing executed.

Left out: joblib before 0.10 (arrays in separate files) and lz4 (not in Python's standard library).
"""
import bz2
import lzma
import math
import re
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from framealign.exchange.inert_pickle import Cursor, Inert, Machine, mapping

LIMIT_BYTES = 1 << 27                               # 128 MiB, uncompressed; the released codebook holds 1.5 MB
_MAX_STEPS = 100_000                                # opcodes; a saved MiniBatchKMeans takes about 300

_CLASSES = frozenset(f"sklearn.cluster.{module}.{name}" for module in ("_kmeans", "k_means_")    # since / before 0.22
                     for name in ("KMeans", "MiniBatchKMeans", "BisectingKMeans"))
_WRAPPERS = frozenset(("joblib.numpy_pickle.NumpyArrayWrapper",
                       "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper"))      # scikit-learn 0.20's own joblib
_RECONSTRUCT = frozenset(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
_FROM_BUFFER = frozenset(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))     # protocol 5
_ADMITTED = _CLASSES | _WRAPPERS | _RECONSTRUCT | _FROM_BUFFER | frozenset((
    "numpy.ndarray", "numpy.memmap", "numpy.core.memmap.memmap", "numpy.dtype", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "numpy.random.__RandomState_ctor", "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor", "numpy.random._mt19937.MT19937",
    "numpy.random.bit_generator.SeedSequence", "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    "copyreg._reconstructor", "builtins.object", "builtins.bytes", "builtins.set", "builtins.frozenset",
    "collections.OrderedDict", "_codecs.encode"))


def read_centroids(path: str | Path) -> np.ndarray:
    """Centroids (K, D), float32 or float64 as stored, from a joblib pickle, a .npy or a .safetensors file.

    The content decides, not the name. A .safetensors file holds them as `centroids` or as its only tensor. Raises
    ValueError naming the file where it is none of the three, is damaged, or does not hold one finite matrix.
    """
    data = _read_bytes(path)
    if data.startswith(b"\x93NUMPY"):
        centroids = _read_npy(path)
    elif data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        centroids = _read_safetensors(data, path)
    else:
        return read_joblib_centroids(path)
    return _checked(centroids, path)


def read_joblib_centroids(path: str | Path) -> np.ndarray:
    """`cluster_centers_` (K, D), float32 or float64, of a scikit-learn k-means saved with joblib (or pickle).

    Raises ValueError naming the file, and the class or function that has no business in a k-means where it names one.
    """
    try:
        content = _decompress(_read_bytes(path))
        saved = _Machine(Cursor(content), _admit, max_steps=_MAX_STEPS).load()
        if isinstance(saved, Inert) and saved.name in _CLASSES:
            state = mapping(saved.state)
            if "cluster_centers_" not in state:
                raise ValueError(f"holds a {saved.name.rsplit('.')[-1]} without cluster_centers_: it was never fitted")
            saved = state["cluster_centers_"]
        centroids = _array(saved)
    except ValueError as error:
        raise ValueError(f"{path}: not readable as a k-means saved by joblib: {str(error)[:300]}") from None
    return _checked(centroids, path)


def _read_bytes(path: str | Path) -> bytes:
    """A file's content. Raises ValueError where it cannot be read or is larger than LIMIT_BYTES."""
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"{path}: larger than {LIMIT_BYTES >> 20} MiB: save cluster_centers_ alone, as .npy")
    return data


def _checked(centroids: np.ndarray, path: str | Path) -> np.ndarray:
    """A native, contiguous copy of `centroids`; ValueError unless it is a finite (K, D) matrix of floats."""
    if centroids.ndim != 2 or 0 in centroids.shape or centroids.dtype.kind != "f" or centroids.dtype.itemsize > 8:
        raise ValueError(f"{path}: centroids must be a matrix (K, D) of float32 or float64, "
                         f"are {centroids.dtype} {centroids.shape}")
    centroids = np.array(centroids, np.float64 if centroids.dtype.itemsize == 8 else np.float32, order="C")
    if not np.isfinite(centroids).all():
        bad_rows, _ = np.nonzero(~np.isfinite(centroids))
        raise ValueError(f"{path}: centroid {int(bad_rows[0])} holds NaN or infinity")
    return centroids


def _read_npy(path: str | Path) -> np.ndarray:
    """The array of a `.npy` file, mapped. Raises ValueError for a file that is none."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)     # mapped: a header cannot claim memory
    except Exception as error:                      # NumPy's header parser lets several kinds through
        raise ValueError(f"{path}: not readable as .npy: {_first_line(error)}") from None


def _read_safetensors(data: bytes, path: str | Path) -> np.ndarray:
    """The tensor `centroids`, or the only one, at least float32. Raises ValueError where there is none."""
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not readable as .safetensors: {_first_line(error)}") from None
    if "centroids" not in tensors and len(tensors) != 1:
        raise ValueError(f"{path}: must hold a tensor `centroids` or one tensor only, "
                         f"holds {', '.join(sorted(tensors)[:5]) or 'none'}")
    name = "centroids" if "centroids" in tensors else next(iter(tensors))
    centroids = tensors[name]
    if not centroids.is_floating_point():
        raise ValueError(f"{path}: centroids must be floats, are {centroids.dtype}")
    if centroids.element_size() < 4:
        centroids = centroids.float()               # NumPy has no bfloat16
    return centroids.numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _admit(name: str) -> None:
    """Raise ValueError for a name that no saved k-means has."""
    if name not in _ADMITTED:
        raise ValueError(f"its pickle names {ascii(name)[1:-1][:100]}, which has no place in a saved k-means; refused "
                         f"(nothing was executed)")


def _decompress(data: bytes) -> bytes:
    """`data` out of the compressed format that its first bytes name, or as it is.

    Raises ValueError for formats that are not supported, damaged data, and more than LIMIT_BYTES.
    """
    if data.startswith(b"\x04\x22\x4d\x18"):
        raise ValueError("compressed with lz4, which is not supported: write it again with another `compress`")
    if data.startswith(b"ZF"):
        raise ValueError("written by joblib before 0.10, which is not supported: write it again with a newer joblib")
    if data.startswith(b"\x78"):
        decompressor = zlib.decompressobj()
    elif data.startswith(b"\x1f\x8b"):
        decompressor = zlib.decompressobj(wbits=31)             # gzip
    elif data.startswith(b"BZ"):
        decompressor = bz2.BZ2Decompressor()
    elif data.startswith(b"\xfd7zXZ"):
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LIMIT_BYTES)
    elif data.startswith(b"\x5d\x00"):
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=LIMIT_BYTES)
    else:
        return data
    try:
        content = decompressor.decompress(data, LIMIT_BYTES + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise ValueError(f"damaged compression: {error}") from None
    if len(content) > LIMIT_BYTES:
        raise ValueError(f"unpacks to more than {LIMIT_BYTES >> 20} MiB: save cluster_centers_ alone, as .npy")
    return content


class _Machine(Machine):
    """A `Machine` for joblib's files: the bytes behind an array's wrapper become its `payload`."""

    def built(self, inert: Inert) -> None:
        """Take the bytes that joblib writes behind an array's wrapper; behind one of objects there is a pickle."""
        if inert.name not in _WRAPPERS:
            return
        state = mapping(inert.state)
        dtype = _dtype(state.get("dtype"))
        if dtype.hasobject:
            self.load()
            return
        if state.get("numpy_array_alignment_bytes") is not None:    # joblib >= 1.2: padding, its length before it
            padding_length = sum(self.stream.read(1))
            self.stream.read(padding_length)
        size = math.prod(_shape(state.get("shape"))) * dtype.itemsize
        inert.payload = self.stream.read(size)
        if len(inert.payload) < size:
            raise ValueError(f"an array of {size} bytes is announced, {len(inert.payload)} are there: "
                             "a truncated file?")


def _array(value: object) -> np.ndarray:
    """The array that `value` describes: joblib's wrapper, or one of NumPy's own pickled forms."""
    if not isinstance(value, Inert):
        raise ValueError("holds neither a fitted k-means nor an array")
    if value.name in _WRAPPERS and value.payload is not None:
        state = mapping(value.state)
        shape, dtype, data, order = state.get("shape"), state.get("dtype"), value.payload, state.get("order")
    elif value.name in _RECONSTRUCT and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, is_fortran, data = value.state
        order = "F" if is_fortran is True or is_fortran == 1 else "C"
    elif value.name in _FROM_BUFFER and len(value.args) == 4:
        data, dtype, shape, order = value.args
    else:
        raise ValueError(f"holds {value.name} where an array is expected")
    if isinstance(data, Inert) and data.name == "_codecs.encode" and data.args and isinstance(data.args[0], str):
        data = data.args[0].encode("latin1")        # how protocols below 3 write bytes
    shape, dtype = _shape(shape), _dtype(dtype)
    if not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape) * dtype.itemsize or dtype.hasobject:
        raise ValueError("an array whose bytes do not match its shape")
    if order not in ("C", "F"):
        raise ValueError("an array whose memory order is neither C nor F")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _shape(value: object) -> tuple[int, ...]:
    """A pickled shape. Raises ValueError for what no array in a file of this size can have."""
    if not isinstance(value, tuple) or len(value) > 8 or any(
            type(size) is not int or not 0 <= size <= LIMIT_BYTES for size in value):
        raise ValueError("an array of impossible shape")
    return value


def _dtype(value: object) -> np.dtype:
    """A pickled NumPy data type: numpy.dtype("f8", ...) restored with (version, byte order, ...)."""
    code = value.args[0] if isinstance(value, Inert) and value.name == "numpy.dtype" and value.args else None
    if not isinstance(code, str) or not re.fullmatch(r"[biufcO][1-9]?[0-9]?|[SU][0-9]{1,6}", code):
        raise ValueError("an array of unknown data type")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    try:
        return np.dtype((order if order in ("<", ">") else "") + code)
    except TypeError:
        raise ValueError("an array of unknown data type") from None
