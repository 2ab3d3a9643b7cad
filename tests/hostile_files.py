"""Good files of every kind that is read, with their readers; and what changes them into files that lie."""
import contextlib
import io
import json
import pickle
import random
import resource
from collections.abc import Callable
from pathlib import Path

import foreign_files
import numpy as np
import safetensors.torch
import small
import soundfile
import torch

from framealign.runtime import files, log
from framealign.sound import audio
from framealign.corpus import manifest
from framealign.corpus.importers import fairseq_list, iemocap, scp
from framealign.corpus.utterance import Utterance
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.exchange import fairseq_checkpoint, speaker_turns
from framealign.units.codebook import Codebook
from framealign.units.frame_store import FrameStore
from framealign.units.units import Units
from framealign.training import checkpoint
from framealign.recipe.stages import changed

ROOM = 1 << 30                                      # bytes of address space a reader may take beyond what is in use
SECONDS = 2.0
HEADER = "\t".join(manifest.COLUMNS) + "\n"
WORDS = [b"\t", b"\n", b"\r", b"\0", b'"', b",", b";", b"..", b"/", b"../../etc/passwd", b"-1", b"0", b"1e308", b"NaN",
         b"99999999999", b"\xff\xfe", b"\xef\xbb\xbf", "\u2028".encode(), b"{", b"[", b"null", b"true", b"\xed\xa0\x80",
         b"[" * 2000, b"9" * 5000, b"A" * 70_000]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF]


def mutated(good: bytes, draw: random.Random) -> bytes:
    """One to five changes of a good file, half of them near its beginning, where headers are."""
    data = bytearray(good)
    for _ in range(draw.randint(1, 5)):
        size = max(1, len(data))
        place = draw.randrange(min(size, 64)) if draw.random() < 0.5 else draw.randrange(size)
        kind = draw.randrange(8)
        if kind == 0 and data:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[place] = draw.randrange(256)
        elif kind == 2:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) & ((1 << 8 * width) - 1)
            data[place:place + width] = number.to_bytes(width, draw.choice(("little", "big")))
        elif kind == 3:
            data[place:place + draw.randrange(4)] = draw.choice(WORDS)
        elif kind == 4:
            del data[place:place + draw.randint(1, 64)]
        elif kind == 5:
            other = draw.randrange(size)
            data[place:place] = data[other:other + draw.randint(1, 64)]
        elif kind == 6:
            del data[draw.randrange(size):]
        else:
            data[place:place] = draw.randbytes(draw.randint(1, 16))
    return bytes(data)


def sound(kind: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
    buffer, noise = io.BytesIO(), np.random.default_rng(0).uniform(-0.5, 0.5, (3000, channels))
    soundfile.write(buffer, noise, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def listen(path: Path) -> None:
    assert len(audio.load(path)) == audio.length(path)


def read_tables(path: Path) -> None:
    """What is read can be written, and is then the same: so ids are safe and paths absolute."""
    utterances = manifest.read(path)
    manifest.write(path.with_name("again.tsv"), utterances)
    assert manifest.read(path.with_name("again.tsv")) == utterances
    assert all(Path(u.id).name == u.id and u.path.is_absolute() for u in utterances)


def read_scp(path: Path) -> None:
    scp.read_split(path, None, path.with_name("other.scp"))


TURNS = {
    "rttm": ";; who\nSPEAKER t 1 0.5 1,25 <NA> <NA> A <NA> <NA>\nSPKR-INFO t 1\nSPEAKER t 1 2 1 <NA> <NA> B 0.5 <NA>\n",
    "srt": "1\n00:00:00,500 --> 00:00:01,750\nA: no\n\n2\n00:00:02,0 --> 01:00:03,0\n[B] yes\n",
    "vtt": "WEBVTT\n\nNOTE x\n\n00:00.500 --> 00:01.750 align:start\n<v A&amp;B>no</v>\n",
    "TextGrid": 'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 2\ntiers? <exists>\n'
                'size = 1\nitem []:\n item [1]:\n class = "IntervalTier"\n name = "A"\n xmin = 0\n xmax = 2\n'
                ' intervals: size = 1\n intervals [1]:\n xmin = 0.5\n xmax = 1.75\n text = "a ""b"""\n'}


def read_turns(path: Path) -> None:
    """Each turn has time, a speaker in one line, and where it stands."""
    for turn in speaker_turns.read(path, "t.wav"):
        assert 0 <= turn.start < turn.end < float("inf") and "\n" not in turn.speaker + turn.where


def safetensors_of(**tensors: torch.Tensor) -> bytes:
    return safetensors.torch.save(tensors, {"num_clusters": "4", "record": "{}", "inertia": "0.5"})


class Readers:
    """Good files by name, and what reads them; `root` is where they are written."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(exist_ok=True)
        for folder in ("Session1/dialog/EmoEvaluation", "Session1/sentences/wav/Ses01F_impro01", "store"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        wav = sound("wav", "PCM_16")
        (root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").write_bytes(wav)
        (root / "a.wav").write_bytes(wav)
        for name in "bc":
            (root / f"{name}.wav").write_bytes(wav)
        (root / "other.scp").write_text("b b.wav sad\n")
        torch.manual_seed(0)
        Hubert(small.model()).save_pretrained(root / "model")
        weights = safetensors.torch.load_file(root / "model" / "model.safetensors")
        np.save(root / "store" / "frames.npy", np.zeros((2, 3), np.float16))
        buffers = {name: io.BytesIO() for name in ("bin", "zip", "legacy", "npy")}
        torch.save(weights, buffers["bin"])
        shape = foreign_files.SMALL
        named = foreign_files.fairseq_names(shape, foreign_files.random_state(shape), {})
        fields = {"model": named, "cfg": {"model": foreign_files.settings_of(shape)}, "args": None}
        torch.save(fields, buffers["zip"])
        torch.save(fields, buffers["legacy"], _use_new_zipfile_serialization=False)
        np.save(buffers["npy"], foreign_files.CENTROIDS)
        config, model = (root / "model" / "config.json").read_bytes(), root / "model"

        def directory(path: Path) -> object:
            return model_directory.read(path.parent)

        self.good: dict[str, tuple[list[bytes], str, Callable[[Path], object]]] = {
            "manifest": ([(HEADER + "a\ta.wav\t900\t1\tS1\tF\tsad\timpro\nb\t/x/b.wav\t400\t\t\t\t\t\n").encode()],
                         "corpus.tsv", read_tables),
            "table": ([b'path,label\n"a.wav",sad\n', b"path;emotion;num_samples\na.wav;joy;900\n"], "t.csv",
                      read_tables),
            "scp": ([b"a a.wav sad\nc c.wav ang\n"], "l.scp", read_scp),
            "fairseq tsv": ([b"/data\na.wav\t900\nb/c.wav\t500\n"], "f.tsv", fairseq_list.read),
            "km": ([b"1 2 3\n0 0 7\n"], "u.km", Units.read_km),
            "IEMOCAP": ([b"% [START - END]\n\n[6.2 - 8.2]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]\nC-E2:\tx;\n"],
                        "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
                        lambda path: iemocap.read(root, allow_partial=True)),
            "config.json": ([config], "model/config.json", directory),
            "preprocessor": ([(model / "preprocessor_config.json").read_bytes()], "model/preprocessor_config.json",
                             directory),
            "weights": ([(model / "model.safetensors").read_bytes()], "model/model.safetensors", directory),
            "bin": ([buffers["bin"].getvalue()], "old/pytorch_model.bin", directory),
            "fairseq": ([buffers["zip"].getvalue(), buffers["legacy"].getvalue()], "f.pt",
                        fairseq_checkpoint.read),
            "joblib": ([foreign_files.k_means(foreign_files.array(alignment=3)),
                        pickle.dumps(foreign_files.CENTROIDS)], "c.bin", Codebook.read),
            "npy": ([buffers["npy"].getvalue()], "c.npy", Codebook.read),
            "codebook": ([safetensors_of(centroids=torch.rand(4, 3), counts=torch.ones(4, dtype=torch.int64))],
                         "codebook.safetensors", Codebook.read),
            "units": ([safetensors_of(units=torch.tensor([0, 1, 3], dtype=torch.int16),
                                      offsets=torch.tensor([0, 1, 3]))], "units.safetensors", Units.read),
            "wav": ([wav, sound("wav", "FLOAT", 8000, 2), sound("wavex", "PCM_24")], "s.wav", listen),
            "flac": ([sound("flac", "PCM_16"), sound("flac", "PCM_24", 44_100)], "s.flac", listen),
            "ogg": ([sound("ogg", "VORBIS"), sound("ogg", "OPUS", 48_000)], "s.ogg", listen),
            "other sound": ([sound("aiff", "PCM_16"), sound("au", "ULAW"), sound("mp3", "MPEG_LAYER_III")], "s.snd",
                            listen),
            "record": ([json.dumps({"settings": {"a": [1, 2]}, "upstream": {"b": {"c": "d"}}}).encode()], "stage.json",
                       lambda path: changed(files.read_json(path), {"settings": {"a": [1]}, "upstream": {}})),
            "store": ([json.dumps({"key": "k", "width": 3, "dtype": "float16", "shards": ["frames.npy"],
                                   "group_frames": 3000, "hop": 320,
                                   "receptive_field": 400}).encode()], "store/index.json",
                      lambda path: FrameStore(path.parent, [Utterance("u", Path("u.wav"), 720)])),
            "log": ([b'{"update": 1, "loss": 0.5}\n{"update": 2}\n'], "log.jsonl",
                    lambda path: log.Log(path).keep_until(1)),
            "rttm": ([TURNS["rttm"].encode()], "t.rttm", read_turns),
            "srt": ([TURNS["srt"].encode()], "t.srt", read_turns),
            "vtt": ([TURNS["vtt"].encode(), TURNS["vtt"].encode("utf-16")], "t.vtt", read_turns),
            "TextGrid": ([TURNS["TextGrid"].encode(), TURNS["TextGrid"].encode("utf-16")], "t.TextGrid", read_turns),
            "checkpoint": ([b'{"config.json": "0123456789abcdef"}'], "run/checkpoints/00000001/complete.json",
                           lambda path: checkpoint.newest(root / "run"))}
        (root / "old").mkdir(exist_ok=True)
        (root / "old" / "config.json").write_bytes(config)


KINDS = ("manifest", "table", "scp", "fairseq tsv", "km", "IEMOCAP", "config.json", "preprocessor", "weights", "bin",
         "fairseq", "joblib", "npy", "codebook", "units", "wav", "flac", "ogg", "other sound", "record", "store", "log",
         "rttm", "srt", "vtt", "TextGrid", "checkpoint")


@contextlib.contextmanager
def bounded():
    """At most ROOM more address space than now: what a header claims cannot be had."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
