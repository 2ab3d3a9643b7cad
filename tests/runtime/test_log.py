"""What a run says: lines on the screen, the same numbers in full in log.jsonl, progress, one line for a mistake."""
import json
import math
import os
import signal
import sys

import pytest

from framealign.runtime import distributed, log


@pytest.fixture
def other_rank(monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(log.time, "monotonic", found)
    return found


def test_say_goes_to_standard_output(capsys):
    log.say("one line")
    log.say("one line")
    assert capsys.readouterr() == ("one line\none line\n", "")


def test_say_once_goes_to_the_error_stream_the_first_time(capsys):
    for text in ("a file is resampled", "another", "a file is resampled"):
        log.say_once(text)
    assert capsys.readouterr() == ("", "a file is resampled\nanother\n")


def test_other_ranks_are_silent(other_rank, tmp_path, capsys):
    log.say("x"), log.say_once("said by rank 1"), log.Log(tmp_path / "log.jsonl").write({"update": 1})
    log.Log(tmp_path / "log.jsonl").keep_until(0)
    assert list(log.progress([1, 2], 2, "work")) == [1, 2]
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds, text", [
    (0, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (60, "1 min 00 s"), (200, "3 min 20 s"),
    (3599.6, "1 h 00 min"), (3600, "1 h 00 min"), (7500, "2 h 05 min"), (360_000, "100 h 00 min")])
def test_clock(seconds, text):
    assert log.clock(seconds) == text


def test_progress_in_a_log_is_a_line_every_half_minute(clock, capsys):
    items = []
    for item in log.progress(range(10), 10, "features", "batches"):
        items.append(item)
        clock.now += 20
    assert items == list(range(10))
    lefts = {2: "2 min 40 s", 4: "2 min 00 s", 6: "1 min 20 s", 8: "40 s"}
    expected = "".join(f"features: {done}/10 batches, {left} left\n" for done, left in lefts.items())
    assert capsys.readouterr() == ("", expected)


def test_progress_on_a_terminal_is_one_line_that_is_wiped_at_the_end(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in log.progress(range(3), 3, "features"):
        clock.now += 1
    assert capsys.readouterr().err == "features: 1/3, 2 s left\x1b[K\rfeatures: 2/3, 1 s left\x1b[K\r\x1b[K\r"
    assert list(log.progress([], 0, "nothing")) == [] and capsys.readouterr().err == ""


def test_progress_passes_errors_on(capsys):
    def failing():
        yield 1
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(log.progress(failing(), 2, "features"))


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_has_the_numbers_in_full_and_the_screen_short(tmp_path, capsys):
    path = tmp_path / "deep" / "log.jsonl"
    journal = log.Log(path)
    full = {"update": 50, "loss": 2 / 3, "lr": 1e-6 / 3, "note": "größer"}
    journal.write(full)
    journal.write({"update": 100, "loss": 0.5}, show=False)
    assert lines(path) == [full, {"update": 100, "loss": 0.5}]
    assert capsys.readouterr().out == "update 50  loss 0.6667  lr 3.333e-07  note größer\n"
    log.Log(path).write({"update": 150}, show=False)        # another process goes on
    assert len(lines(path)) == 3


def test_numbers_that_are_none_leave_the_file_json(tmp_path, capsys):
    """Strict readers refuse NaN and Infinity: null in the file, the number on the screen."""
    journal = log.Log(tmp_path / "log.jsonl")
    journal.write({"update": 1, "loss": math.nan, "gradient_norm": math.inf})

    def refuse(word: str):
        raise AssertionError(word)

    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse) == {"update": 1, "loss": None, "gradient_norm": None}
    assert capsys.readouterr().out == "update 1  loss nan  gradient_norm inf\n"


def test_a_resumed_run_writes_its_records_again_once(tmp_path):
    """Records after the checkpoint are dropped, so too a line torn by the interruption; records of no update stay."""
    path = tmp_path / "log.jsonl"
    journal = log.Log(path)
    journal.keep_until(0)                           # no file yet
    for record in ({"seed": 0}, {"update": 50}, {"update": 100}, {"update": 100, "valid_loss": 1.0}, {"update": 150}):
        journal.write(record, show=False)
    with open(path, "a") as file:
        file.write('{"update": 200, "lo')
    journal.keep_until(100)
    journal.write({"update": 150, "again": True}, show=False)
    assert lines(path) == [{"seed": 0}, {"update": 50}, {"update": 100}, {"update": 100, "valid_loss": 1.0},
                           {"update": 150, "again": True}]
    assert [x.name for x in tmp_path.iterdir()] == ["log.jsonl"]
    path.write_text('{"update": 50}\n[1, 2]\n3\n\n{"update": 60}\n')        # lines that are no records
    journal.keep_until(100)
    assert lines(path) == [{"update": 50}, {"update": 60}]


@pytest.mark.parametrize("error, status, text", [
    (ValueError("a.wav: too short"), 2, "error: a.wav: too short\n"),
    (FileNotFoundError(2, "No such file or directory", "x"), 2, "error: [Errno 2] No such file or directory: 'x'\n"),
    (KeyboardInterrupt(), 130, "interrupted; the same command continues\n")], ids=["mistake", "disk", "Ctrl-C"])
def test_a_mistake_is_one_line_and_a_status(error, status, text, capsys):
    def main():
        raise error

    assert log.command(main) == status and capsys.readouterr() == ("", text)


@pytest.mark.parametrize("number, status, text", [
    (signal.SIGINT, 130, "interrupted; the same command continues\n"),
    (signal.SIGTERM, 75, "SIGTERM: stopped; the same command continues\n")], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("turned", [None, RuntimeError, OSError, ImportError])
def test_a_signal_is_a_signal_whatever_it_was_turned_into(number, status, text, turned, capsys):
    """Where C code is interrupted (an import, torch writing a file), another error may come out."""
    before = signal.getsignal(number)

    def main():
        try:
            os.kill(os.getpid(), number)
        except BaseException as error:
            raise turned("initialisation failed") if turned else error

    assert log.command(main) == status and capsys.readouterr() == ("", text)
    assert signal.getsignal(number) is before
    with pytest.raises(RuntimeError):               # without one it is the program's own fault
        log.command(lambda: (_ for _ in ()).throw(RuntimeError))


def test_an_ignored_interrupt_stays_ignored():
    """As of a command that a shell has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert log.command(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fault_of_the_program_keeps_its_traceback():
    def main():
        raise IndexError("ours")

    with pytest.raises(IndexError, match="ours"):
        log.command(main)
    assert log.command(lambda: None) == 0


PRETRAINED = {"update": 150, "loss": 3.0213, "masked_accuracy": 0.234, "unmasked_accuracy": 0.751, "lr": 5e-4,
              "gradient_norm": 1.25, "skipped_updates": 0, "audio_seconds_per_second": 148.3, "seconds_left": 200}
TUNED = {"update": 3, "epoch": 3, "loss": 0.74, "lr": 1e-4, "valid_wa": 0.7, "valid_ua": 0.708, "skipped_updates": 2,
         "test_predicted": [1, 2], "seconds_left": 12}


def test_a_stage_is_told_in_words_in_a_log(tmp_path, capsys):
    log.Log(tmp_path / "align-pretrain" / "log.jsonl", 600).write(PRETRAINED)
    log.Log(tmp_path / "ser-finetune" / "way2" / "log.jsonl", 8).write(TUNED)
    log.Log(tmp_path / "align-pretrain" / "log.jsonl", 600).write({"update": 150, "valid_loss": math.nan})
    log.Log(tmp_path / "align-pretrain" / "log.jsonl", 600).write({"update": 150, "loss": 1.0}, show=False)
    assert capsys.readouterr() == (
        "[align-pretrain] update 150 of 600  loss 3.021  masked 23.4%  unmasked 75.1%  lr 0.0005  gradient 1.25  "
        "148 s of sound/s  3 min 20 s left\n"
        "[ser-finetune/way2] epoch 3 of 8  loss 0.740  UA 70.8%  WA 70.0%  lr 0.0001  skipped 2  12 s left\n"
        "[align-pretrain] update 150 of 600  validation loss nan\n", "")


def test_on_a_terminal_it_is_one_line_no_wider_than_the_window(tmp_path, capsys, monkeypatch):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    journal = log.Log(tmp_path / "align-pretrain" / "log.jsonl", 600)
    journal.write(PRETRAINED, show=False)
    journal.write(PRETRAINED | {"update": 600, "seconds_left": 0})
    said, live = capsys.readouterr()
    first, last = live.split("\x1b[K\r")
    assert said == "" and len(first) == 59 and first.startswith("[align-pretrain] update 150 of 600  loss 3.021")
    assert last.startswith("[align-pretrain] update 600 of 600") and last.endswith("\x1b[K\n")
    assert len(lines(tmp_path / "align-pretrain" / "log.jsonl")) == 2


@pytest.fixture
def tensorboard(monkeypatch):
    pytest.importorskip("tensorboard")
    log.use_tensorboard(True)
    yield
    log.use_tensorboard(False)


def test_tensorboard_reads_the_numbers_back(tmp_path, tensorboard):
    """TensorBoard's own reader; a resumed run's numbers replace those after its checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for loss in (3.0, 2.0):
        journal = log.Log(tmp_path / "s" / "log.jsonl", 30)
        for step in (10, 20, 30) if loss == 3.0 else (20, 30):
            journal.write(TUNED | {"update": step, "loss": loss + step}, show=False)
        journal.board.close()
    found = EventAccumulator(str(tmp_path / "s" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(10, 13.0), (20, 22.0), (30, 32.0)]
    assert set(found.Tags()["scalars"]) == set(TUNED) - {"update", "epoch", "test_predicted"}


def test_without_tensorboard_the_flag_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="needs the package tensorboard: pip install"):
        log.use_tensorboard(True)
    log.use_tensorboard(False)
    log.Log(tmp_path / "log.jsonl", 3).write({"update": 1}, show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
