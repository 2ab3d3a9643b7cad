"""Checkpoints: what is saved comes back to the bit; a torn, flipped or half-written one costs only itself."""
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from framealign.runtime import distributed, files
from framealign.hubert import model_directory
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.training import checkpoint
from framealign.training.optimiser import adamw, step

CONFIG = HubertConfig(conv_dim=(4,), conv_kernel=(10,), conv_stride=(5,), hidden_size=4, num_hidden_layers=1,
                      num_attention_heads=1, intermediate_size=4, num_conv_pos_embeddings=2,
                      num_conv_pos_embedding_groups=1)
FILES = ["complete.json", "config.json", "model.safetensors", "preprocessor_config.json", "state.pt"]


def content(update: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """Encoder, head and training state after `update`: weights, moments, counters, words, best so far."""
    torch.manual_seed(update)
    hubert = Hubert(CONFIG)
    optimizer = adamw(hubert.parameters(), 0.1, (0.9, 0.98), 1e-6, 0.01)
    hubert.states(torch.randn(2, 50)).square().sum().backward()
    step(optimizer, 0.01, 10.0)
    head = {"pooling.weight": torch.rand(4), "classifier.weight": torch.randn(2, 4).bfloat16()}
    return hubert.state_dict(), head, {"update": update, "optimizer": optimizer.state_dict(), "record": "0123abcd",
                                       "totals": {"loss": torch.tensor(1 / 3, dtype=torch.float64),
                                                  "masked": torch.tensor(2 ** 40)}, "best": {"epoch": 3, "ua": None}}


def save(run: Path, update: int, keep: int = 2) -> None:
    state, head, training = content(update)
    hubert = Hubert(CONFIG, do_normalize=False)
    hubert.load_state_dict(state)
    checkpoint.save(run, update, hubert, head, training, keep, labels=["a", "b"])


def same(x: object, y: object) -> bool:
    """Equal in type and value, tensors in data type and bits too, down through dictionaries and lists."""
    if isinstance(x, Tensor):
        return isinstance(y, Tensor) and x.dtype == y.dtype and torch.equal(x, y)
    if isinstance(x, dict):
        return isinstance(y, dict) and x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
    if isinstance(x, (list, tuple)):
        return type(x) is type(y) and len(x) == len(y) and all(map(same, x, y))
    return type(x) is type(y) and x == y


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_saved_comes_back(tmp_path):
    """To the bit, data types too; the folder is a Hugging Face directory as well."""
    assert checkpoint.latest(tmp_path) is None and checkpoint.newest(tmp_path) is None
    save(tmp_path, 7)
    assert all(map(same, checkpoint.latest(tmp_path), content(7)))
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "00000007"
    assert sorted(path.name for path in checkpoint.newest(tmp_path).iterdir()) == FILES
    found = model_directory.read(checkpoint.newest(tmp_path))
    assert found.config == CONFIG and found.labels == ["a", "b"] and found.do_normalize is False
    Hubert.from_pretrained(checkpoint.newest(tmp_path))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_are_kept(keep, tmp_path):
    for update in (5, 10, 99, 100, 1000):
        save(tmp_path, update, keep)
    assert folders(tmp_path) == ["00000005", "00000010", "00000099", "00000100", "00001000"][-keep:]
    assert all(map(same, checkpoint.latest(tmp_path), content(1000)))
    save(tmp_path, 1000, keep)                      # the same update again, as after a resume from the one before
    assert len(folders(tmp_path)) == keep and all(map(same, checkpoint.latest(tmp_path), content(1000)))


def flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[:draw.randrange(path.stat().st_size)])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, truncate, lambda path, draw: path.unlink()], ids=["flip", "cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over(name, damage, tmp_path, capsys):
    """One bit or some bytes of any of its files: the one before it is used, and that is said."""
    draw = random.Random(name)
    save(tmp_path, 10), save(tmp_path, 20)
    path, expected = tmp_path / "checkpoints" / "00000020", content(10)
    for _ in range(25):
        whole = (path / name).read_bytes()
        damage(path / name, draw)
        assert all(map(same, checkpoint.latest(tmp_path), expected))
        said = capsys.readouterr().out
        assert said.startswith(f"checkpoint {path} is damaged (") and said.endswith("); using the one before\n")
        assert said.count("\n") == 1 and (name in said or name == "complete.json")     # which names the others
        (path / name).write_bytes(whole)
    assert all(map(same, checkpoint.latest(tmp_path), content(20))) and not capsys.readouterr().out


def test_other_damage(tmp_path, capsys):
    """An empty folder, a file in its place, a list of digests that leaves files out: the newest whole one counts."""
    save(tmp_path, 10), save(tmp_path, 20)
    place = tmp_path / "checkpoints"
    (place / "00000030").mkdir()
    (place / "00000040").write_text("no folder")
    shutil.copytree(place / "00000020", place / "00000050")
    files.write_json(place / "00000050" / "complete.json", {"config.json": "0" * 16})
    shutil.copytree(place / "00000020", place / "00000060")
    digests = files.read_json(place / "00000060" / "complete.json")
    digests.pop("state.pt")
    files.write_json(place / "00000060" / "complete.json", digests)
    assert checkpoint.newest(tmp_path) == place / "00000020"
    assert capsys.readouterr().out.count("is damaged") == 4
    for folder in place.glob("000000[12]0"):
        shutil.rmtree(folder)
    assert checkpoint.latest(tmp_path) is None
    assert capsys.readouterr().out.splitlines()[-1].endswith("; there is none before it")


def test_what_a_killed_run_left_is_ignored_then_removed(tmp_path):
    save(tmp_path, 10)
    left_over = tmp_path / "checkpoints" / ".00000020.tmp"
    shutil.copytree(tmp_path / "checkpoints" / "00000010", left_over)
    (left_over / "state.pt").write_bytes(b"half")
    assert all(map(same, checkpoint.latest(tmp_path), content(10)))
    save(tmp_path, 30)
    assert folders(tmp_path) == ["00000010", "00000030"]


@pytest.mark.parametrize("where", ["model_directory.write", "torch.save", "os.replace"])
def test_a_full_disk_leaves_the_previous_one(where, tmp_path, monkeypatch):
    save(tmp_path, 10)

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"framealign.training.checkpoint.{where}", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 20)
    assert folders(tmp_path) == ["00000010"] and all(map(same, checkpoint.latest(tmp_path), content(10)))
    save(tmp_path, 20)
    assert all(map(same, checkpoint.latest(tmp_path), content(20)))


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    save(tmp_path, 10)
    assert not list(tmp_path.iterdir())


def test_nothing_is_unpickled_that_can_execute(tmp_path):
    """A state.pt with an object in it, its digest in order: refused by torch, by name."""
    save(tmp_path, 10)
    place = tmp_path / "checkpoints" / "00000010"
    torch.save({"update": 10, "thing": Path("/")}, place / "state.pt")
    digests = files.read_json(place / "complete.json")
    files.write_json(place / "complete.json", digests | {"state.pt": files.digest(place / "state.pt")})
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.latest(tmp_path)
