"""The truth about frames: written and read, as stretches and as frames, and a broken one named with its line."""
import pytest

from framealign.corpus import frame_truth
from framealign.corpus.frame_truth import Stretch
from framealign.corpus.utterance import Utterance
from framealign.sound.frames import Framing


def test_what_is_written_is_read(tmp_path):
    wav = tmp_path / "a.wav"
    assert not frame_truth.exists(Utterance("a", wav, 16_000))
    frame_truth.write(wav, [(3, 9, "sad"), (20, 21, "angry")])
    assert frame_truth.exists(Utterance("a", wav, 16_000))
    assert frame_truth.rows(wav) == [(3, 9, "sad"), (20, 21, "angry")]
    assert frame_truth.stretches(wav) == [Stretch(0.06, 0.18, "sad"), Stretch(0.4, 0.42, "angry")]
    assert frame_truth.is_emotional(wav, 30).nonzero()[0].tolist() == [3, 4, 5, 6, 7, 8, 20]
    assert frame_truth.is_emotional(wav, 4).tolist() == [False, False, False, True]
    # Frame t of 40 ms has its centre at 640 t + 361, nearest to that of the file's frame 2 t + 1.
    assert frame_truth.is_emotional(wav, 15, Framing(640, 722)).nonzero()[0].tolist() == [1, 2, 3]
    frame_truth.write(wav, [])
    assert frame_truth.exists(Utterance("a", wav, 16_000)) and not frame_truth.stretches(wav)


@pytest.mark.parametrize("text, problem", [("3\t9\n", "line 1: must be first"), (None, "no such file"),
                                           ("3\t9\tsad\nx\t9\tsad\n", "line 2: must be first"),
                                           ("9\t9\tsad\n", "line 1: must be first")])
def test_a_broken_truth_is_named_with_its_line(tmp_path, text, problem):
    if text is not None:
        (tmp_path / "a.emotional.tsv").write_text(text)
    with pytest.raises(ValueError, match=problem):
        frame_truth.is_emotional(tmp_path / "a.wav", 20)
