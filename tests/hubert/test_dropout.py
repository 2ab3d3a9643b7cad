"""Dropout from 16 random bits an element: its probabilities, in every place, and attention with it."""
import math

import pytest
import torch
import torch.nn.functional as F

from framealign.hubert.dropout import SMALL, STEPS, Dropout, attend, dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9, 1 / STEPS])
def test_elements_drop_with_probability_p_wherever_they_lie(p):
    """Each of the four places of a drawn number: the share of zeros is p, within five deviations."""
    torch.manual_seed(1)
    dropped = dropout(torch.ones(4, 250_000, dtype=torch.float64), p) == 0
    for place in range(4):
        share = dropped.flatten()[place::4].double().mean().item()
        assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / 250_000) + 0.5 / STEPS


def test_elements_drop_independently_of_each_other():
    torch.manual_seed(2)
    dropped = (dropout(torch.ones(1_000_000), 0.3) == 0).double() - 0.3
    for distance in (1, 2, 3, 4, 5, 8, 768):
        assert abs((dropped[distance:] * dropped[:-distance]).mean().item()) <= 5 * 0.21 / 1000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 11)])
def test_what_stays_is_divided_by_its_share_and_so_is_the_gradient(dtype, shape):
    torch.manual_seed(3)
    x = torch.randn(shape).to(dtype).requires_grad_()
    y = dropout(x, 0.25)
    kept = y != 0
    assert y.dtype == dtype and y.shape == x.shape
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0))
    direction = torch.randn(shape).to(dtype)
    y.backward(direction)
    torch.testing.assert_close(x.grad, torch.where(kept, direction / 0.75, 0))


def test_nothing_and_everything_may_drop():
    x = torch.randn(50)
    assert torch.equal(dropout(x, 0.0), x) and torch.equal(dropout(x, 1.0), torch.zeros(50))
    assert dropout(x[:0], 0.5).shape == (0,)


@pytest.mark.parametrize("size, own", [(SMALL - 1, True), (SMALL, False)])
def test_the_states_of_small_models_have_torchs_own_draws(size, own):
    x = torch.randn(size)
    torch.manual_seed(7)
    found = Dropout(0.1)(x)
    torch.manual_seed(7)
    assert torch.equal(found, F.dropout(x, 0.1)) == own
    torch.manual_seed(7)
    assert torch.equal(found, dropout(x, 0.1)) != own


@pytest.mark.parametrize("size", [700, SMALL])
def test_the_module_drops_in_training_only_and_by_the_seed(size):
    x, module = torch.randn(size), Dropout(0.4)
    assert module.eval()(x) is x
    module.train()
    torch.manual_seed(4)
    first, second = module(x), module(x)
    torch.manual_seed(4)
    assert torch.equal(module(x), first) and not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_is_softmax_and_a_sum_over_real_keys(p):
    """Against plain loops in float64, with the weights that the same seed drops."""
    torch.manual_seed(5)
    q, k, v = torch.randn(3, 2, 2, 9, 4, dtype=torch.float64).unbind()
    real_keys = (torch.arange(9) < torch.tensor([9, 6])[:, None])[:, None, None, :]
    torch.manual_seed(6)
    found = attend(q, k, v, real_keys, p)
    torch.manual_seed(6)
    drawn = dropout(torch.ones(2, 2, 9, 9, dtype=torch.float64), p)
    for b, real in enumerate((9, 6)):
        for head in range(2):
            for t in range(9):
                weights = torch.stack([q[b, head, t] @ k[b, head, key] / 2 for key in range(real)]).exp()
                weights = weights / weights.sum() * drawn[b, head, t, :real]
                torch.testing.assert_close(found[b, head, t], weights @ v[b, head, :real])
    torch.testing.assert_close(attend(q, k, v, None, 0.0), F.scaled_dot_product_attention(q, k, v))
