"""Schedule against its closed form, the step against AdamW in numpy, and gradients that are not finite."""
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from framealign.training import optimiser

SETTINGS = dict(lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def parameters(dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype))
            for shape in ((7, 5), (5,), ())]


def give_gradients(trained: list[nn.Parameter], seed: int, scale: float = 1.0) -> list[np.ndarray]:
    """Random gradients, set and returned."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained:
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)).to(parameter)
    return [parameter.grad.double().cpu().numpy().copy() for parameter in trained]


def everything(trained: list[nn.Parameter], optimizer: torch.optim.AdamW) -> list[Tensor]:
    """Copies of weights, moments and step counts."""
    return [x.detach().clone() for x in trained] + [
        x.clone() for parameter in trained for _, x in sorted(optimizer.state[parameter].items())]


@pytest.mark.parametrize("warmup, updates", [(0, 10), (1, 10), (4, 10), (10, 10), (4000, 20_000), (0, 1), (1, 1)])
def test_linear_schedule(warmup, updates):
    """Through (0, 0), (warmup, peak) and (updates, 0), straight between them, 0 ever after."""
    found = [optimiser.linear_schedule(update, 5e-4, warmup, updates) for update in range(1, updates + 10)]
    corners = ([0, warmup, updates], [0, 5e-4, 0]) if 0 < warmup < updates else \
        ([0, updates], [5e-4, 0]) if warmup == 0 else ([0, updates], [0, 5e-4])
    expected = np.interp(range(1, updates + 10), *corners)
    expected[updates:] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)
    if warmup:
        assert found[warmup - 1] == max(found) == 5e-4


@pytest.mark.parametrize("clip_norm", [1e9, 10.0, 0.5])
@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_adamw(device, clip_norm):
    """Thirty steps with changing rates and gradients: Loshchilov & Hutter 2019, Alg. 2, written out in float64.

    Gradients are scaled to `clip_norm` in common where their norm is above; the norm before that is returned.
    """
    trained = parameters(device=device)
    optimizer = optimiser.adamw(trained, **SETTINGS)
    weights = [x.detach().cpu().numpy().copy() for x in trained]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t in range(1, 31):
        lr = optimiser.linear_schedule(t, 0.1, 5, 40)
        gradients = give_gradients(trained, t, scale=3 ** (t % 4 - 2))
        norm, skipped = optimiser.step(optimizer, lr, clip_norm)
        expected_norm = np.sqrt(sum((g ** 2).sum() for g in gradients))
        assert norm.device.type == device and skipped.item() == 0
        np.testing.assert_allclose(norm.item(), expected_norm, rtol=1e-12)
        for i, g in enumerate(gradients):
            g = g * min(1, clip_norm / (expected_norm + 1e-6))
            weights[i] = weights[i] * (1 - lr * 0.01)
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.98 * v[i] + 0.02 * g ** 2
            weights[i] = weights[i] - lr * (m[i] / (1 - 0.9 ** t)) / (np.sqrt(v[i] / (1 - 0.98 ** t)) + 1e-6)
            np.testing.assert_allclose(trained[i].detach().cpu().numpy(), weights[i], rtol=1e-9, atol=1e-12)
        assert all(x.grad is None for x in trained)


def test_what_does_not_train_is_left_alone():
    trained = parameters()
    trained[1].requires_grad_(False)
    frozen, idle = trained[1].clone(), trained[2].clone()
    optimizer = optimiser.adamw(trained, **SETTINGS)
    assert len(optimizer.param_groups[0]["params"]) == 2
    give_gradients(trained[:1], 0)                  # and none for the last
    _, skipped = optimiser.step(optimizer, 0.1, 10.0)
    assert skipped == 0 and torch.equal(trained[1], frozen) and torch.equal(trained[2], idle)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38], ids=str)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_that_is_not_finite_changes_nothing(device, first, poison):
    """One bad element (or norm, too large for float32): all weights, moments and step counts stay, to the bit; said.

    The steps after it are those of a run that never met it.
    """
    (bad, good) = (parameters(torch.float32, device) for _ in range(2))
    one, other = optimiser.adamw(bad, **SETTINGS), optimiser.adamw(good, **SETTINGS)
    if not first:
        for trained, optimizer in ((bad, one), (good, other)):
            give_gradients(trained, 0)
            optimiser.step(optimizer, 0.1, 10.0)
    weights, before = [x.detach().clone() for x in bad], everything(bad, one)
    give_gradients(bad, 1)
    bad[0].grad[3, 2] = poison
    norm, skipped = optimiser.step(one, 0.1, 10.0)
    assert skipped == 1 and not torch.isfinite(norm) and all(x.grad is None for x in bad)
    if first:                                       # the optimiser made its moments just now
        assert all(map(torch.equal, bad, weights)) and not any(x.any() for x in everything(bad, one)[3:])
    else:
        assert all(map(torch.equal, everything(bad, one), before))
    for seed in range(2, 5):
        for trained, optimizer in ((bad, one), (good, other)):
            give_gradients(trained, seed)
            assert optimiser.step(optimizer, 0.1, 10.0)[1] == 0
    assert all(map(torch.equal, everything(bad, one), everything(good, other)))


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu():
    trained = parameters(torch.float32, "cuda")
    optimizer = optimiser.adamw(trained, **SETTINGS)
    for seed in range(3):
        give_gradients(trained, seed)
        torch.cuda.set_sync_debug_mode("error")     # any read by the host raises
        try:
            optimiser.step(optimizer, 0.1, 10.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_moments_survive_saving(tmp_path):
    """State dict through a file that loads without executing a pickle; then the same steps, to the bit."""
    trained, again = parameters(torch.float32), parameters(torch.float32)
    optimizer, other = optimiser.adamw(trained, **SETTINGS), optimiser.adamw(again, **SETTINGS)
    give_gradients(trained, 0)
    optimiser.step(optimizer, 0.05, 10.0)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with torch.no_grad():
        for x, y in zip(again, trained):
            x.copy_(y)
    for seed in (1, 2):
        for parameters_, optimizer_ in ((trained, optimizer), (again, other)):
            give_gradients(parameters_, seed)
            optimiser.step(optimizer_, 0.1, 10.0)
    assert all(map(torch.equal, everything(trained, optimizer), everything(again, other)))


def test_twenty_skipped_in_a_row_stop_the_run():
    for skipped in (0, 1, 19):
        optimiser.stop_if_skipping(torch.tensor(float(skipped)), 70)
    for number in (20, 50):
        with pytest.raises(ValueError, match=f"^update 70: the last {number} gradients were not finite; look at"):
            optimiser.stop_if_skipping(torch.tensor(float(number)), 70)


@pytest.mark.parametrize("loss, is_finite", [(1.5, True), (0.0, True), (np.nan, False), (np.inf, False),
                                             (-np.inf, False)])
def test_a_loss_that_is_not_finite_spoils_its_own_gradient(loss, is_finite):
    """Which would be 1 whatever the loss is; a finite loss keeps its gradient to the bit."""
    x = torch.tensor(loss, requires_grad=True)
    optimiser.only_if_finite(x).backward()
    assert (float(x.grad) == 1.0) if is_finite else torch.isnan(x.grad)


def test_which_updates_were_skipped():
    flags = [torch.tensor(float(x)) for x in (0, 1, 0, 0, 1)]
    assert optimiser.skipped_steps(flags, 100) == [97, 100] and optimiser.skipped_steps([], 7) == []
