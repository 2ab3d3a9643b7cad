"""Hidden spans against a brute force that places them one by one, against exact probabilities, and for every length."""
from math import comb

import pytest
import torch
from torch import Tensor

from framealign.hubert.masking import span_mask

EVERY_LENGTH = torch.arange(1, 301)
SETTINGS = [(0.08, 10, 2), (0.08, 10, 0), (0.5, 10, 2), (1.0, 3, 0), (0.08, 1, 0), (0.02, 300, 5), (0.3, 7, 100)]


def draw(counts: Tensor, seed: int, start_fraction: float = 0.08, span: int = 10, min_spans: int = 2,
         longest: int | None = None) -> Tensor:
    longest = int(counts.max()) if longest is None else longest
    return span_mask(counts, longest, start_fraction, span, min_spans, torch.Generator().manual_seed(seed))


def place_one_by_one(counts: Tensor, longest: int, start_fraction: float, span: int, min_spans: int, seed: int
                     ) -> Tensor:
    """The same numbers drawn; the starts chosen and their spans laid down in loops."""
    generator = torch.Generator().manual_seed(seed)
    rounding = torch.rand(len(counts), generator=generator)
    scores = torch.rand(len(counts), longest, generator=generator)
    spared = torch.rand(len(counts), generator=generator)
    is_masked = torch.zeros(len(counts), longest, dtype=torch.bool).numpy()     # of which one element is soon set
    for b, T in enumerate(counts.tolist()):
        width = min(span, T // 2)
        if width == 0:
            continue
        number = int(start_fraction * counts[b] + rounding[b])
        number = max(number, min(min_spans, (T - 1) // width))
        score = scores[b].tolist()
        places = sorted(range(T - width + 1), key=lambda t: -score[t])
        for start in places[:number]:
            for t in range(start, start + width):
                assert t < T
                is_masked[b, t] = True
        if is_masked[b, :T].all():
            is_masked[b, int(spared[b] * T)] = False
    return torch.from_numpy(is_masked)


@pytest.mark.parametrize("start_fraction, span, min_spans", SETTINGS)
def test_spans_lie_where_brute_force_lays_them(start_fraction, span, min_spans):
    for seed, counts in enumerate((EVERY_LENGTH, EVERY_LENGTH[torch.randperm(300)], EVERY_LENGTH[:25])):
        longest = int(counts.max()) + 7
        expected = place_one_by_one(counts, longest, start_fraction, span, min_spans, seed)
        assert torch.equal(draw(counts, seed, start_fraction, span, min_spans, longest), expected)


@pytest.mark.parametrize("start_fraction, span, min_spans", SETTINGS)
def test_padding_is_never_masked_and_something_always_unmasked(start_fraction, span, min_spans):
    is_padding = torch.arange(310) >= EVERY_LENGTH[:, None]
    for seed in range(30):
        is_masked = draw(EVERY_LENGTH, seed, start_fraction, span, min_spans, longest=310)
        assert is_masked.dtype == torch.bool and is_masked.shape == (300, 310)
        assert not (is_masked & is_padding).any()
        assert (is_masked.sum(1) < EVERY_LENGTH).all()
        assert not is_masked[0].any()               # one frame alone
        if min_spans:
            assert is_masked[1:].any(1).all()


def test_something_is_unmasked_where_two_spans_just_fit():
    """20 frames, spans of 10: one draw in about 90 would hide everything, and there every frame is spared in turn."""
    counts = torch.full((30_000,), 20)
    is_masked = draw(counts, 0)
    assert (is_masked.sum(1) < 20).all()
    spared = (~is_masked[is_masked.sum(1) == 19]).sum(0)                        # (20,), with those one frame short
    assert (spared > 0).all()


def runs(is_masked: Tensor) -> list[int]:
    """Lengths of the runs of masked frames of one utterance."""
    edges = torch.cat([torch.zeros(1), is_masked.float(), torch.zeros(1)]).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


def test_a_span_is_whole():
    """Every run of masked frames is at least one span long; of utterances below two spans, at least half of them."""
    for seed in range(20):
        for T, is_masked in zip(EVERY_LENGTH.tolist(), draw(EVERY_LENGTH, seed)):
            found = runs(is_masked)
            assert not found or min(found) >= min(10, T // 2) or sum(found) == T - 1


@pytest.mark.parametrize("length", [3, 20, 77, 100, 263])
def test_number_of_starts(length):
    """With spans of one frame starts can be counted: 8 % rounded up or down at random, in the mean exactly 8 %."""
    number, wanted = 20_000, 0.08 * length
    counts = draw(torch.full((number,), length), 0, span=1, min_spans=0).sum(1)
    assert set(counts.tolist()) <= {int(wanted), int(wanted) + 1}
    assert abs(counts.double().mean() - wanted) < 5 * (0.25 / number) ** 0.5 + 1e-6
    at_least = draw(torch.full((200,), length), 1, span=1, min_spans=2).sum(1)
    assert (at_least >= 2).all() and (at_least <= max(2, int(wanted) + 1)).all()


def test_every_place_is_equally_likely():
    """Starts of one span of 10 in 40 frames: each of the 31 places once in 31."""
    number = 31_000
    is_masked = draw(torch.full((number,), 40), 0, start_fraction=1e-9, min_spans=1)
    assert (is_masked.sum(1) == 10).all()
    places = torch.bincount(is_masked.long().argmax(1), minlength=31)
    assert len(places) == 31 and ((places - 1000).abs() < 5 * 1000 ** 0.5).all()


@pytest.mark.parametrize("length", [50, 225, 1000])
def test_masked_fraction(length):
    """The mean over many draws is what counting subsets gives: n starts out of T - 9 places leave frame t unmasked
    with probability C(places - k, n) / C(places, n), k of the places reaching t. About 57 % of a long utterance."""
    places, number = length - 9, int(400_000 / length)
    starts = {int(0.08 * length): 1 - 0.08 * length % 1, int(0.08 * length) + 1: 0.08 * length % 1}
    exact = 0.0
    for n, probability in starts.items():
        for t in range(length):
            reaching = min(t, places - 1) - max(0, t - 9) + 1
            exact += probability * (1 - comb(places - reaching, n) / comb(places, n)) / length
    fractions = draw(torch.full((number,), length), length, min_spans=0).double().mean(1)
    assert abs(fractions.mean() - exact) < 5 * fractions.std() / number ** 0.5
    if length == 1000:
        assert 0.55 < exact < 0.58


def test_the_generator_alone_decides():
    counts = torch.tensor([300, 20, 120, 1])
    torch.manual_seed(0)
    first, untouched = draw(counts, 5), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(draw(counts, 5), first) and not torch.equal(draw(counts, 6), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), untouched)
    generator = torch.Generator().manual_seed(5)    # and it moves on
    assert torch.equal(span_mask(counts, 300, 0.08, 10, 2, generator), first)
    assert not torch.equal(span_mask(counts, 300, 0.08, 10, 2, generator), first)
