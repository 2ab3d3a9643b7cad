"""A classifier of frames: what is drawn, levels, the loss, ranks, resuming, and that it finds the frames."""
import dataclasses
import functools
import json
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import ranks
import soundfile
import stopped
import torch

from framealign.sound.degradation import Degradation
from framealign.sound.frames import EVERY_20_MS, Framing, num_frames
from framealign.corpus import frame_truth
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.emotion import calibration, diarization, planted_truth
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.training import checkpoint, frame_labels, frame_training
from framealign.training.frame_training import Medley, Piece, Speech
from framealign.training.training_config import FramesConfig, TrainingRun

CPU, CLASSES = torch.device("cpu"), ["neutral", "angry", "sad"]
PITCHES = {"neutral": 400, "angry": 1500, "sad": 3500}      # Hz
QUIET = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> list[Utterance]:
    """Two speakers; half of the time of an emotional utterance has its pitch, the rest that of neutral ones."""
    folder, utterances = tmp_path_factory.mktemp("planted"), []
    for number in range(48):
        rng = np.random.default_rng(number)
        label, speaker = CLASSES[number % 3], ("anna", "bert")[number // 3 % 2]
        T = int(rng.integers(60, 90))
        is_emotional = np.zeros(T, bool)
        if label != "neutral":
            first = int(rng.integers(5, T // 2))
            is_emotional[first:first + T // 2] = True
        pitch = np.where(np.repeat(is_emotional, 320), PITCHES[label], PITCHES["neutral"]) * rng.uniform(0.95, 1.05)
        samples = np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.05 * rng.standard_normal(320 * T)
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.uniform(0.3, 1) * samples, 16_000)
        edges = np.flatnonzero(np.diff([0, *is_emotional, 0])).reshape(-1, 2)
        frame_truth.write(path, [(int(a), int(b), label) for a, b in edges])
        utterances.append(Utterance(path.stem, path, 320 * T, "1", speaker, "", label))
    return utterances


def settings(**changes: object) -> FramesConfig:
    return FramesConfig(**({"seed": 3, "scorer_epochs": 1, "epochs": 1, "batch_size": 3, "sequence_seconds": 1.5,
                            "score_passes": 1, "max_seconds": 2.0, "log_every_updates": 3, "save_every_updates": 4}
                           | changes))


def speech_of(utterances: list[Utterance], framing: Framing = EVERY_20_MS, do_normalize: bool = False) -> Speech:
    return Speech(utterances, CLASSES, framing, do_normalize)


def load(config, seed: int = 1) -> Hubert:
    torch.manual_seed(seed)
    return Hubert(config)


# What is drawn

@pytest.mark.parametrize("framing", (EVERY_20_MS, Framing(640, 720)))
def test_every_stretch_has_one_level_and_a_frame_for_each_hop(planted, framing):
    speech, rng = speech_of(planted, framing), np.random.default_rng(0)
    for _ in range(20):
        pieces = []
        for u in rng.integers(0, 48, 4).tolist():
            first = int(rng.integers(speech.size(u) - 3))
            end = int(rng.integers(first + 2, speech.size(u)))
            pieces.append(Piece(u, first, end, float(rng.uniform(-3, 3))))
        waveform, start = speech.waveform(pieces).numpy().astype(float), 0
        for piece in pieces:
            part = waveform[framing.hop * start:framing.hop * (start + piece.end - piece.first)]
            assert 20 * np.log10(part.std()) == pytest.approx(piece.decibels, abs=0.02)
            start += piece.end - piece.first
        assert (len(waveform) - framing.receptive_field) // framing.hop + 1 == start == Medley(pieces, 0).num_hops


def test_stretches_are_half_neutral_short_and_of_one_speaker(planted):
    speech, config, counts = speech_of(planted), settings(), Counter()
    for update in range(100):
        medley = frame_training.draw_stretches(speech, "bert", config, np.random.default_rng(update))
        labels = [speech.labels[piece.utterance] for piece in medley.pieces]
        assert labels.count(0) * 2 == len(labels) and medley.num_hops >= 75
        assert {planted[piece.utterance].speaker for piece in medley.pieces} == {"bert"}
        for piece in medley.pieces:
            assert 20 <= piece.end - piece.first <= 50 and 0 <= piece.first < piece.end <= speech.size(piece.utterance)
            assert abs(piece.decibels) <= 3
        counts.update(labels)
    assert counts[1] == pytest.approx(counts[2], rel=0.2)
    assert 0 < labels.index(0) or labels[0] != labels[1]                        # in drawn order


@pytest.mark.parametrize("seed", range(30))
def test_windows_cover_an_utterance(seed):
    rng = np.random.default_rng(seed)
    whole, size = Piece(7, 0, int(rng.integers(1, 200))), int(rng.integers(1, 40))
    windows = frame_training.windows_of(whole, size, int(rng.integers(size)))
    assert [t for window in windows for t in range(window.first, window.end)] == list(range(whole.end))
    assert all(window.utterance == 7 for window in windows)
    lengths = [window.end - window.first for window in windows]
    assert max(lengths) <= 2 * size and (min(lengths) >= size / 3 or len(windows) == 1)


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_is_a_stretch_of_the_medley(seed):
    rng = np.random.default_rng(seed)
    edges = [sorted(rng.integers(0, 90, 2).tolist()) for _ in range(3)]
    medley = Medley([Piece(u, a, b + 1) for u, (a, b) in enumerate(edges)], 2)
    config = settings(max_seconds=float(rng.uniform(0.1, 4)))
    found = frame_training.cropped(medley, config, EVERY_20_MS, rng)
    everything, kept = ([(piece.utterance, t) for piece in x.pieces for t in range(piece.first, piece.end)]
                        for x in (medley, found))
    assert len(kept) == min(len(everything), round(config.max_seconds * 50)) and found.label == 2
    first = everything.index(kept[0])
    assert everything[first:first + len(kept)] == kept


def test_what_is_joined_is_degraded_and_keeps_its_frames(planted, micro, tmp_path):
    """The recogniser's medleys, not the scorer's: each the plain waveform degraded, by its update and place."""
    speech = speech_of(planted)
    shares = [np.zeros((speech.size(u), 3)) for u in range(len(planted))]
    drawn = {}
    with mock.patch.object(frame_training, "fit", lambda hubert, plan, *rest: plan):
        for augment in ("", "all"):
            run = TrainingRun(tmp_path, CPU)
            config = settings(augment=augment, augment_share=1.0)
            assert all(medley.degradation is None for medley in
                       frame_training.train_scorer(load(micro), speech, config, run).draw(1))
            plan = frame_training.train_recogniser(load(micro), speech, shares, config, run)
            drawn[augment] = [plan.draw(update) for update in (1, 2)]
            assert drawn[augment] == [plan.draw(update) for update in (1, 2)]
    assert len({medley.degradation.seed for medleys in drawn["all"] for medley in medleys}) == 6
    for plain, degraded in zip(drawn[""][0], drawn["all"][0]):
        assert plain == dataclasses.replace(degraded, degradation=None) and degraded.degradation.noise
        voices = [torch.from_numpy(speech.sounds[u].ravel()).float() for u in degraded.degradation.voices]
        expected = degraded.degradation(speech.waveform(plain.pieces), voices)
        inputs, lengths, target, _ = frame_training.batch_of([degraded], plan)
        assert torch.equal(inputs[0], expected)
        assert len(target[0]) == len(degraded.hop_of_frames(speech.framing)) == num_frames(int(lengths[0]))


@pytest.mark.parametrize("framing", (EVERY_20_MS, Framing(640, 720)))
@pytest.mark.parametrize("percent", (50, 83, 99, 100, 101, 120, 150))
def test_at_another_speed_frames_follow_their_sound(framing, percent):
    """A short pulse in the middle of a drawn hop's frame is, once faster or slower, in a frame of that hop."""
    rng, changed = np.random.default_rng(percent), Degradation(speed_percent=percent)
    for num_hops in rng.integers(3, 200, 10).tolist():
        hop = int(rng.integers(num_hops))
        middles = framing.hop * np.arange(num_hops) + framing.receptive_field / 2
        samples = np.arange(framing.hop * (num_hops - 1) + framing.receptive_field)
        pulse = torch.from_numpy(np.exp(-((samples - middles[hop]) / 40) ** 2)).float()
        waveform = changed(pulse)
        hops = Medley([Piece(0, 0, num_hops)], 0, changed).hop_of_frames(framing)
        assert len(hops) == num_frames(len(waveform), framing) and set(np.diff(hops)) <= {0, 1, 2}
        middles = framing.hop * np.arange(len(hops)) + framing.receptive_field / 2
        distances = np.abs(middles - int(waveform.argmax()))
        if distances.min() <= framing.hop / 2:                                  # else it is in what ends no frame
            assert abs(hops[distances.argmin()] - hop) <= (percent > 100)       # faster: not every hop has a frame
        if percent == 100:
            assert hops.tolist() == list(range(num_hops))


def test_an_epoch_has_each_neutral_utterance_and_emotions_equally_often(planted, micro):
    speech, plans = speech_of(planted), []
    with mock.patch.object(frame_training, "fit", lambda hubert, plan, *rest: plans.append(plan)):
        frame_training.train_recogniser(load(micro), speech, [], settings(epochs=40), TrainingRun(Path("x"), CPU))
    plan, = plans
    assert plan.updates == 40 * 16
    medleys = [medley for update in range(1, plan.updates + 1) for medley in plan.draw(update)]
    for epoch in range(40):
        of_epoch = medleys[48 * epoch:48 * (epoch + 1)]
        assert sorted(m.pieces[0].utterance for m in of_epoch if m.label == 0) == [u for u in range(48) if u % 3 == 0]
    labels = Counter(medley.label for medley in medleys)
    assert labels[0] == 640 and labels[1] == pytest.approx(labels[2], rel=0.1)
    orders = Counter()
    for medley in medleys:
        classes = [speech.labels[piece.utterance] for piece in medley.pieces]
        assert len({planted[piece.utterance].speaker for piece in medley.pieces}) == 1 and medley.num_hops <= 100
        if medley.label:
            orders[tuple(min(label, 1) for label in classes)] += 1
    assert {(0, 1), (1, 0), (0, 1, 0), (1,)} <= set(orders)
    assert [m.pieces for m in plan.draw(7)] == [m.pieces for m in plan.draw(7)]


def plans_of(utterances: list[Utterance], config: FramesConfig, model) -> tuple[Speech, list]:
    """What scorer and recogniser of these utterances are trained on."""
    speech, run = speech_of(utterances), TrainingRun(Path("x"), CPU)
    with mock.patch.object(frame_training, "fit", lambda hubert, plan, *rest: plan):
        return speech, [frame_training.train_scorer(load(model), speech, config, run),
                        frame_training.train_recogniser(load(model), speech, [], config, run)]


def test_corpora_are_drawn_equally_often(planted, micro):
    """Of three speakers in two corpora, the scorer hears the one who is alone in half of the medleys; the recogniser,
    within each class, an utterance of either corpus in half of them, though one has 6 of 48; one lacks a class.
    """
    def placed(u: Utterance) -> Utterance:
        is_small = u.speaker == "bert" and int(u.id) < 18
        corpus, speaker = ("small", "cleo") if is_small else ("large", u.speaker)
        return dataclasses.replace(u, corpus=corpus, speaker=speaker)

    several = [placed(u) for u in planted if not (placed(u).corpus == "small" and u.label == "sad")]
    speech, (scorer, recogniser) = plans_of(several, settings(balance_corpora=True, epochs=40), micro)
    assert Counter(u.corpus for u in several) == {"small": 6, "large": 39}
    heard = Counter(several[medley.pieces[0].utterance].speaker for update in range(1, 301)
                    for medley in scorer.draw(update))
    for speaker, share in (("cleo", 1 / 2), ("anna", 1 / 4), ("bert", 1 / 4)):
        assert abs(heard[speaker] - 900 * share) < 5 * (900 * share) ** 0.5
    medleys = [medley for update in range(1, recogniser.updates + 1) for medley in recogniser.draw(update)]
    counts = Counter((medley.label, several[medley.pieces[0].utterance].corpus) for medley in medleys)
    emotional = sum(1 for u in several if u.label != "neutral") * 40
    assert len(medleys) == 45 * 40 and counts[0, "small"] + counts[0, "large"] == 45 * 40 - emotional
    for (label, corpus), share in {(0, "small"): 1 / 2, (0, "large"): 1 / 2, (1, "small"): 1 / 2, (1, "large"): 1 / 2,
                                   (2, "large"): 1.0}.items():
        mean = share * (emotional / 2 if label else 45 * 40 - emotional)
        assert abs(counts[label, corpus] - mean) < 5 * mean ** 0.5, (label, corpus, counts)
    assert counts[2, "small"] == 0
    assert [m.pieces for m in recogniser.draw(7)] == [m.pieces for m in recogniser.draw(7)]
    assert [m.pieces for m in scorer.draw(7)] == [m.pieces for m in scorer.draw(7)]


def test_a_column_corpus_changes_no_draw_unless_corpora_are_balanced(planted, micro):
    several = [dataclasses.replace(u, corpus="ab"[number % 2]) for number, u in enumerate(planted)]
    one = [dataclasses.replace(u, corpus="a") for u in planted]
    plain, known, asked, alone = (plans_of(utterances, settings(balance_corpora=balanced), micro)[1]
                                  for utterances, balanced in ((planted, False), (several, False), (several, True),
                                                               (one, True)))
    for update in range(1, 9):
        assert plain[0].draw(update) == known[0].draw(update) and plain[1].draw(update) == known[1].draw(update)
    assert all(plain[1].draw(update) != asked[1].draw(update) for update in range(1, 9))
    assert {m.label for update in range(1, 17) for m in alone[1].draw(update)} == {0, 1, 2}


def test_unknown_speakers_of_two_corpora_are_not_joined(planted, micro):
    """They count as one speaker of each corpus, as those of a table without corpora do."""
    unknown = [dataclasses.replace(u, speaker="", corpus="ab"[number // 3 % 2]) for number, u in enumerate(planted)]
    _, plans = plans_of(unknown, settings(epochs=3), micro)
    for plan in plans:
        for update in range(1, 40):
            for medley in plan.draw(update):
                assert len({unknown[piece.utterance].corpus for piece in medley.pieces}) == 1
    assert frame_training.lacking([dataclasses.replace(u, corpus="ab"[u.label == "neutral"]) for u in unknown],
                                  CLASSES).startswith("no speaker of the training part has both")


def test_balancing_corpora_needs_to_know_them(planted, micro, tmp_path):
    split = Split(planted[:24], [], planted[24:], "s")
    with pytest.raises(ValueError, match="utterance 0 is of no corpus, and balance_corpora draws every corpus equally"):
        frame_training.train_frames(lambda: load(micro), planted, split, CLASSES, settings(balance_corpora=True),
                                    TrainingRun(tmp_path / "run", CPU))
    assert not (tmp_path / "run").exists()


# The loss

def test_the_loss_is_that_of_every_frame(planted, micro):
    """Against a sum over frames of each medley by itself; padding counts for nothing."""
    speech, rng = speech_of(planted), np.random.default_rng(0)
    labels = [rng.dirichlet(np.ones(3), speech.size(u)) for u in range(48)]
    plan = frame_training.Plan(speech=speech, labels=labels, draw=lambda update: [], updates=1, utterance_weight=1.0)
    medleys = [Medley([speech.whole(1), speech.whole(3)], 1), Medley([speech.whole(2)], 2)]
    torch.manual_seed(0)
    model = EmotionModel(load(micro), CLASSES, "frames").eval()
    for head in (model.frames, model.classifier):
        torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        found = frame_training.FrameLoss(model, True)(*frame_training.batch_of(medleys, plan))
    of_frames = of_utterances = 0.0
    for medley in medleys:
        waveform = speech.waveform(medley.pieces)
        with torch.no_grad():
            states = model.hubert.states(waveform[None])[0].double()
            p = (states @ model.frames.weight.double().T + model.frames.bias.double()).softmax(-1).numpy()
            weights = 1 - p[:, 0] + 0.1
            pooled = (weights[:, None] * states.numpy()).sum(0) / weights.sum()
            logits = model.classifier.weight.double().numpy() @ pooled + model.classifier.bias.double().numpy()
        rows = np.concatenate([labels[piece.utterance] for piece in medley.pieces])
        of_frames -= (rows * np.log(p)).sum()
        of_utterances -= logits[medley.label] - np.log(np.exp(logits).sum())
    assert float(found[0]) == pytest.approx(of_frames, rel=1e-5)
    assert float(found[1]) == pytest.approx(of_utterances, rel=1e-4)


# Whole runs

def split_of(utterances: list[Utterance]) -> Split:
    return Split(train=utterances[:36], valid=[], test=utterances[36:], name="half")


def train(config, utterances: list[Utterance], folder: Path, stop_after: tuple[int, int] = (0, 0),
          **changes: object) -> dict:
    """A whole run on the CPU; stop_after: updates of scorer and recogniser after which it is stopped and continued."""
    arguments = (lambda: load(config), utterances, split_of(utterances), CLASSES, settings(**changes),
                 TrainingRun(folder, CPU))
    for part, number in zip(("scorer", "."), stop_after):
        if number:
            def is_time(training: frame_training.FrameTraining) -> bool:
                return training.run.folder == folder / part and training.update == number
            with stopped.when(frame_training.FrameTraining, is_time) as ended:
                frame_training.train_frames(*arguments)
            assert ended == [75] and checkpoint.newest(folder / part).name == f"{number:08d}"
    return frame_training.train_frames(*arguments)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("changes", ({}, {"augment": "all", "augment_share": 1.0}))
def test_an_interrupted_run_ends_with_the_same_bits(planted, micro, tmp_path, changes):
    """Stopped within the scorer's training, between two lines of the log, and within the recogniser's."""
    whole = train(micro, planted, tmp_path / "whole", **changes)
    again = train(micro, planted, tmp_path / "again", stop_after=(5, 4), **changes)
    assert whole == again
    for name in ("recogniser/model.safetensors", "predictions.csv", "results.json", "log.jsonl", "scorer/log.jsonl",
                 "scorer/spreads.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    lines = log_of(tmp_path / "whole")
    assert [line["update"] for line in lines] == [3, 6, 9, 12]
    with pytest.raises(ValueError, match="made with another configuration, split or sound"):
        train(micro, planted, tmp_path / "again", **changes | {"lr": 1e-4})


@pytest.mark.parametrize("world, changes", ((2, {}), (4, {}), (2, {"augment": "all"})))
def test_several_ranks_do_as_one(planted, micro, tmp_path, world, changes):
    """Three medleys an update: of two ranks one has more, of four one has none."""
    quiet = dataclasses.replace(micro, **QUIET)
    one = train(quiet, planted, tmp_path / "one", **changes)
    several = ranks.run(functools.partial(train, **changes), world, quiet, planted, tmp_path / "several", (5, 4))
    for found in several:
        assert found["test"]["confusion"] == one["test"]["confusion"]
    for place in ("scorer", "."):
        for mine, other in zip(log_of(tmp_path / "one" / place), log_of(tmp_path / "several" / place), strict=True):
            assert mine == pytest.approx(other, rel=1e-4)
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.parametrize("fraction", (0.0, 0.08))
def test_spans_are_masked_for_the_recogniser_alone(planted, micro, tmp_path, fraction):
    """Of the scorer's stretches none; of joined utterances as many as `span_mask` draws, none beyond their ends."""
    seen, states = {"scorer": [], "recogniser": []}, EmotionModel.states

    def look(model, inputs, lengths, is_masked=None):
        if model.training:
            kind = "recogniser" if model.classifier.weight.requires_grad else "scorer"
            counts = model.hubert.num_frames(lengths)
            if is_masked is not None:
                is_real = torch.arange(is_masked.shape[1]) < counts[:, None]
                assert is_masked.shape == (len(counts), counts.max()) and not (is_masked & ~is_real).any()
            seen[kind].append((0 if is_masked is None else int(is_masked.sum())) / int(counts.sum()))
        return states(model, inputs, lengths, is_masked)

    with mock.patch.object(EmotionModel, "states", look):
        train(micro, planted, tmp_path, mask_start_fraction=fraction)
    assert len(seen["scorer"]) == len(seen["recogniser"]) == 12 and set(seen["scorer"]) == {0}
    share = np.mean(seen["recogniser"])
    assert share == 0 if not fraction else 0.4 < share < 0.7, share
    record = Hubert.from_pretrained(tmp_path / "recogniser").masked_spec_embed
    assert torch.equal(record, load(micro).masked_spec_embed) == (not fraction)


def test_it_finds_the_frames(planted, micro, tmp_path):
    """From labels of whole utterances, in utterances that it never saw."""
    local = dataclasses.replace(micro, **QUIET, feat_extract_norm="layer", conv_bias=True)
    results = train(local, planted, tmp_path, scorer_epochs=12, epochs=12, lr=1e-2, freeze_conv=False,
                    sequence_seconds=2.0, mask_start_fraction=0.0)
    assert results["test"]["ua"] == 1 and results["selection"] == "last"
    spreads = json.loads((tmp_path / "scorer" / "spreads.json").read_text())
    assert {*spreads} == {"angry", "sad"}
    for of_emotion in spreads.values():             # half of the time
        assert of_emotion["coverage"] == pytest.approx(0.5, abs=0.15)
        assert of_emotion["neutral"] < -1 and of_emotion["emotional"] > 1
    recogniser = Recogniser.from_pretrained(tmp_path / "recogniser")
    assert recogniser.model.frames is not None
    found = diarization.scores(planted_truth.recognised(recogniser, planted[36:]))
    assert found["eder"] < 0.12 < 0.25 < min(found["always_neutral"], found["label_everywhere"]), found
    assert found["emotional_auc"] > 0.95


def test_frames_are_calibrated_by_what_the_scorer_says_of_validation_utterances(planted, micro, tmp_path):
    """By spreads of the training part, never by the truth; the attention is that of the trained classifier.

    A frame before and after the audible part, whose label is not known, takes no part.
    """
    part = Split(train=planted[:30], valid=planted[30:36], test=planted[36:], name="half")
    config = settings(lr=1e-2, scorer_epochs=4, whole_coverage=1.0)
    found = frame_training.train_frames(lambda: load(micro), planted, part, CLASSES, config, TrainingRun(tmp_path, CPU))
    assert found["selection"] == "last" and found["num_utterances"] == {"train": 30, "valid": 6, "test": 12}
    recogniser = Recogniser.from_pretrained(tmp_path / "recogniser")
    assert found["calibration"]["frames"] == recogniser.model.calibration.frames

    scorer = EmotionModel.from_pretrained(checkpoint.newest(tmp_path / "scorer"))
    valid = speech_of(part.valid, do_normalize=True)
    scores = frame_training.scores_in_other_company(scorer, valid, config, CPU)
    spreads = {name: frame_labels.Spread(**values)
               for name, values in json.loads((tmp_path / "scorer" / "spreads.json").read_text()).items()}
    soft = frame_labels.soft_labels(scores, valid.labels, CLASSES, 0, spreads, 10, 1.0)
    assert all(0.2 < rows[:, 0].mean() < 0.8 for rows, label in zip(soft, valid.labels) if label)    # not the whole
    logits, targets = [], []
    for utterance, start, rows in zip(part.valid, valid.starts, soft):
        result = recogniser(utterance.path)
        posterior = result.posterior[start:start + len(rows)].astype(float)
        logits.append(recogniser.model.calibration.frames * np.log(posterior))  # up to a constant of each frame
        targets.append(rows[:len(posterior)])
        p = calibration.softmax(recogniser.model.calibration.frames * np.log(result.posterior.astype(float)))
        np.testing.assert_allclose(result.attention, (1.1 - p[:, 0]) / (1.1 - p[:, 0]).sum(), rtol=1e-4)
    assert recogniser.model.calibration.frames == pytest.approx(calibration.of_frames(logits, targets), abs=1e-4)
    assert recogniser.model.calibration.frames != pytest.approx(1, abs=1e-3)

    bound = frame_training.train_frames(lambda: load(micro), planted, part, CLASSES, config,
                                        TrainingRun(tmp_path / "bound", CPU), on_truth=True)
    assert bound["calibration"]["frames"] != found["calibration"]["frames"]


@pytest.mark.parametrize("framing", (EVERY_20_MS, Framing(640, 720)))
def test_true_labels_stand_where_the_sound_does(planted, framing):
    """Of each hop, whatever silence was cut before it: by the pitch of the hop."""
    speech = speech_of(planted, framing)
    labels = frame_training.true_labels(speech)
    is_right = []
    for u, rows in enumerate(labels):
        assert rows.shape == (speech.size(u), 3) and (rows.sum(1) == 1).all() and ((rows == 0) | (rows == 1)).all()
        hops = speech.sounds[u].astype(float)                                   # (T, hop)
        spectrum = np.abs(np.fft.rfft(hops * np.hanning(framing.hop))) ** 2
        hertz = spectrum.argmax(1) * 16_000 / framing.hop
        pitches = np.array([PITCHES[name] for name in CLASSES])
        is_right += list(np.abs(hertz[:, None] - pitches).argmin(1) == rows.argmax(1))
    assert np.mean(is_right) > (0.97 if framing is EVERY_20_MS else 0.94), np.mean(is_right)    # but for the edges


def test_true_labels_are_those_of_what_was_not_cut(tmp_path):
    path = tmp_path / "a.wav"
    sound = np.concatenate([np.zeros(3200), 0.1 * np.random.default_rng(0).standard_normal(320 * 50)])
    soundfile.write(path, sound, 16_000)
    utterance = Utterance("a", path, len(sound), "1", "anna", "", "ang")
    with pytest.raises(ValueError, match=r"a\.wav: the truth of its frames is not known"):
        frame_training.true_labels(speech_of([dataclasses.replace(utterance, label="angry")]))
    frame_truth.write(path, [(20, 30, "ang")])
    rows, = frame_training.true_labels(speech_of([dataclasses.replace(utterance, label="angry")]))
    assert np.array_equal(rows.argmax(1), [0] * 10 + [1] * 10 + [0] * 30)
    frame_truth.write(path, [(20, 30, "bored")])
    with pytest.raises(ValueError, match=r"a\.wav: its truth has bored, which is no class"):
        frame_training.true_labels(speech_of([dataclasses.replace(utterance, label="angry")]))


def test_what_cannot_be_trained_is_refused(planted, micro, tmp_path):
    run = TrainingRun(tmp_path / "run", CPU)
    relabelled = [dataclasses.replace(u, label="sad" if u.label == "neutral" else u.label) for u in planted]
    with pytest.raises(ValueError, match="there is no class neutral, what an utterance is"):
        frame_training.train_frames(lambda: load(micro), relabelled, split_of(relabelled), ["angry", "sad"], settings(),
                                    run)
    apart = [dataclasses.replace(u, speaker=f"{u.label} {u.speaker}") for u in planted]
    with pytest.raises(ValueError, match="no speaker of the training part has both neutral and emotional"):
        frame_training.train_frames(lambda: load(micro), apart, split_of(apart), CLASSES, settings(), run)
    assert not (tmp_path / "run").exists()
