"""The truth about frames: written and read, as stretches and as frames, and a broken one named with its line."""
from dataclasses import replace

import numpy as np
import pytest

from framealign.corpus import frame_truth
from framealign.corpus.frame_truth import Stretch
from framealign.corpus.utterance import Utterance
from framealign.sound.frames import Framing


def test_what_is_written_is_read(tmp_path):
    wav = tmp_path / "a.wav"
    utterance = Utterance("a", wav, 16_000)
    assert not frame_truth.exists(utterance)
    frame_truth.write(wav, [(3, 9, "sad"), (20, 21, "angry"), (25, 28, "Neutral")])
    assert frame_truth.exists(utterance)
    assert frame_truth.rows(wav) == [(3, 9, "sad"), (20, 21, "angry"), (25, 28, "Neutral")]
    assert frame_truth.stretches(utterance) == [Stretch(0.06, 0.18, "sad"), Stretch(0.4, 0.42, "angry")]
    assert frame_truth.is_emotional(utterance, 30).nonzero()[0].tolist() == [3, 4, 5, 6, 7, 8, 20]
    assert frame_truth.is_emotional(utterance, 4).tolist() == [False, False, False, True]
    # Frame t of 40 ms has its centre at 640 t + 361, nearest to that of the file's frame 2 t + 1.
    assert frame_truth.is_emotional(utterance, 15, Framing(640, 722)).nonzero()[0].tolist() == [1, 2, 3]
    frame_truth.write(wav, [])
    assert frame_truth.exists(utterance) and not frame_truth.stretches(utterance)


@pytest.mark.parametrize("framing", [Framing(320, 400), Framing(640, 720), Framing(160, 400), Framing(320, 700)])
def test_a_frame_is_what_its_centre_is(tmp_path, framing):
    """Stretches on whole frames of 20 ms: the frame of 20 ms with the nearest centre, the earlier of two, decides."""
    rng = np.random.default_rng(framing.hop + framing.receptive_field)
    for number in range(20):
        edges = np.sort(rng.choice(200, 4, replace=False)).tolist()
        planted = np.isin(np.arange(400), [*range(*edges[:2]), *range(*edges[2:])])
        utterance = Utterance("a", tmp_path / f"{number}.wav", 64_000)
        frame_truth.write(utterance.path, [(*edges[:2], "sad"), (*edges[2:], "sad")])
        centres = framing.hop * np.arange(190) + framing.receptive_field / 2
        nearest = np.abs(centres[:, None] - (320 * np.arange(400) + 200) + 1e-3).argmin(1)
        assert (frame_truth.is_emotional(utterance, 190, framing) == planted[nearest]).all()


def test_exact_seconds_of_a_manifest(tmp_path):
    """They stand before what lies beside the sound; frame t of 20 ms is emotional where (t + 1/2) / 50 s is."""
    utterance = Utterance("a", tmp_path / "a.wav", 64_000, truth=(Stretch(0.39, 1.1, "angry"),))
    frame_truth.write(utterance.path, [(0, 9, "sad")])
    assert frame_truth.stretches(utterance) == [Stretch(0.39, 1.1, "angry")]
    assert frame_truth.is_emotional(utterance, 60).nonzero()[0].tolist() == list(range(19, 55))
    later = replace(utterance, truth=(Stretch(0.391, 1.111, "angry"),))
    assert frame_truth.is_emotional(later, 60).nonzero()[0].tolist() == list(range(20, 56))
    assert frame_truth.exists(replace(utterance, truth=())) and not frame_truth.stretches(replace(utterance, truth=()))


def test_what_lies_beside_a_sound_is_read_without_a_manifest(tmp_path):
    """None where nothing does; stretches that the sound cannot have are named with the file."""
    sound = tmp_path / "a.b.wav"
    assert frame_truth.beside(sound, 2.0) is None
    assert frame_truth.beside(tmp_path / f"{'x' * 248}.wav", 2.0) is None       # a name that no truth can lie beside
    assert not frame_truth.exists(Utterance("x", tmp_path / f"{'x' * 248}.wav", 32_000))
    frame_truth.write(sound, [])
    assert frame_truth.beside(str(sound), 2.0) == []
    frame_truth.write(sound, [(10, 20, "sad"), (50, 300, "Neutral"), (95, 120, "angry")])
    assert frame_truth.beside(sound, 2.0) == [Stretch(0.2, 0.4, "sad"), Stretch(1.9, 2.4, "angry")]
    frame_truth.write(sound, [(10, 20, "sad"), (15, 30, "angry")])
    with pytest.raises(ValueError, match=r"a.b.emotional.tsv: truth: both sad and angry at 0.3 s"):
        frame_truth.beside(sound, 2.0)


@pytest.mark.parametrize("seed", range(20))
def test_throughout_says_what_it_is_at_any_time(seed):
    """Without gaps from 0 to the end, in the classes' spelling; at any time what the stretches say, else neutral."""
    draw = np.random.default_rng(seed)
    edges = np.sort(draw.uniform(0, 12, 2 * int(draw.integers(0, 5)))).reshape(-1, 2).tolist()
    known = [Stretch(start, end, str(draw.choice(["Anger", "sad", "fear"]))) for start, end in edges]
    draw.shuffle(known)
    parts = frame_truth.throughout(known, 10.0, ["neutral", "angry", "sad"])
    assert parts[0].start == 0 and parts[-1].end == 10 and all(a.end == b.start for a, b in zip(parts, parts[1:]))
    for second in draw.uniform(0, 10, 100):
        found, = [part.emotion for part in parts if part.start <= second < part.end]
        true = [one.emotion for one in known if one.start <= second < one.end] or ["neutral"]
        assert found == {"Anger": "angry"}.get(true[0], true[0])


def test_a_cell_keeps_what_it_is_given():
    """Any float and any name, bit for bit."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        edges = np.sort(rng.uniform(0, 10.0 ** rng.integers(-3, 5), 2 * int(rng.integers(1, 5)))).tolist()
        truth = tuple(Stretch(start, end, str(rng.choice(["sad", "very angry", "2 b", "ärgerlich"])))
                      for start, end in zip(edges[::2], edges[1::2]))
        assert frame_truth.parsed(frame_truth.cell(truth)) == truth
    for truth, text in (((), "neutral"), (None, ""), ((Stretch(0.0, 1.5, "sad"), Stretch(2.25, 3.0, "a b")),
                                                      "0 1.5 sad; 2.25 3 a b")):
        assert frame_truth.cell(truth) == text and frame_truth.parsed(text) == truth


@pytest.mark.parametrize("text", ["angry", "1 2", "1 2 sad;", "1 2 sad; 3 4", "-1 2 sad", "1e3 2e3 sad", "1 nan sad",
                                  ";"])
def test_a_cell_that_is_no_truth_is_refused(text):
    with pytest.raises(ValueError, match="truth must be start end emotion.*rename the column"):
        frame_truth.parsed(text)


@pytest.mark.parametrize("truth, problem", [
    ([(1, 1, "sad")], "begin at 0 s or later and end after that, is from 1 to 1"),
    ([(-1, 1, "sad")], "begin at 0 s"), ([(float("nan"), 1, "sad")], "begin at 0 s"),
    ([(390, 1100, "sad")], "begins at 390 s, the sound ends at 4.00 s; give seconds"),
    ([(1, 2, "sa;d")], "no semicolon"), ([(1, 2, " sad")], "no semicolon"), ([(1, 2, "s\tad")], "no semicolon"),
    ([(2, 3, "sad"), (1, 2.1, "angry")], "both angry and sad at 2 s")])
def test_stretches_that_cannot_be_are_refused(truth, problem):
    with pytest.raises(ValueError, match=problem):
        frame_truth.check([Stretch(*one) for one in truth], 4.0)
    frame_truth.check([Stretch(2, 4.1, "sad"), Stretch(1, 2, "angry")], 4.0)


@pytest.mark.parametrize("text, problem", [("3\t9\n", "line 1: must be first"), (None, "no such file"),
                                           ("3\t9\tsad\nx\t9\tsad\n", "line 2: must be first"),
                                           ("9\t9\tsad\n", "line 1: must be first"),
                                           ("3\t9\t \n", "line 1: must be first"),
                                           ("3\t9\tsad\n3\t9\ts\x01d\n", "line 2: must be first"),
                                           ("RIFF\xb5\0\xff\xfe", "line 1: must be first")])
def test_a_broken_truth_is_named_with_its_line(tmp_path, text, problem):
    if text is not None:
        (tmp_path / "a.emotional.tsv").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=problem):
        frame_truth.is_emotional(Utterance("a", tmp_path / "a.wav", 16_000), 20)
