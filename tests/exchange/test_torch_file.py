"""Files of torch.save read as data, in both of its formats: the tensors that torch.load gives."""
import pickle

import pytest
import torch

from framealign.exchange import torch_file
from framealign.exchange.inert_pickle import mapping

BASE = torch.arange(24, dtype=torch.float32).view(4, 6)
TENSORS = {"plain": BASE, "a view": BASE[1:3], "transposed": BASE.T, "every other": BASE[:, ::2], "number": BASE[2, 3],
           "empty": torch.zeros(0, 5), "parameter": torch.nn.Parameter(torch.randn(3, 2)),
           **{str(dtype): torch.ones(3, dtype=dtype) for dtype in (
               torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
               torch.uint8, torch.bool)}}


@pytest.mark.parametrize("is_zip", [True, False], ids=["since 1.6", "before 1.6"])
def test_tensors_are_those_of_torch_load(tmp_path, is_zip):
    """Views of one storage, strides, every type; copies, so that one may be changed without another."""
    path = tmp_path / "tensors.pt"
    torch.save({"model": TENSORS}, path, _use_new_zipfile_serialization=is_zip)
    content = torch_file.read(path)
    tensors = content.tensors(mapping(mapping(content.root)["model"]))
    expected = torch.load(path, weights_only=True)["model"]
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name].data) and tensor.dtype == TENSORS[name].dtype, name
    tensors["plain"].zero_()
    assert torch.equal(tensors["a view"], BASE[1:3])


@pytest.mark.parametrize("is_zip", [True, False], ids=["since 1.6", "before 1.6"])
def test_what_is_cut_off_is_refused(tmp_path, is_zip):
    path = tmp_path / "tensors.pt"
    torch.save({"model": {"plain": torch.randn(1000)}}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for size in (3, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError):
            torch_file.read(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(pickle.dumps({"model": 3}))
    with pytest.raises(ValueError, match="not a file of torch.save"):
        torch_file.read(path)
    torch.save({"model": {"no tensor": 3}}, path)
    content = torch_file.read(path)
    with pytest.raises(ValueError, match="'no tensor' is not a tensor"):
        content.tensors(mapping(mapping(content.root)["model"]))
    with pytest.raises(OSError):
        torch_file.read(tmp_path / "nowhere.pt")
