"""rvlib.attacks.gradient: losses against their formulas, gradients, rounding into the ball."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rvlib as rv
from rvlib.attacks.gradient import configured, inside
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import Scaled, seeded

Z = 5 * torch.randn(40, 6, generator=seeded(), dtype=torch.float64)
Y, TARGET = (torch.randint(6, (40,), generator=seeded(seed)) for seed in (1, 2))


# ---- losses, written out once more in NumPy ---------------------------------------------------


def margin(z, y, t):
    return max(np.delete(z, y)) - z[y]


def log_odds(z, y, t):
    return np.log(np.exp(np.delete(z, y)).sum() / np.exp(z[y]))


def dlr(z, y, t):
    ordered = np.sort(z)[::-1]
    return margin(z, y, t) / (ordered[0] - ordered[2])


def towards(z, y, t):
    return z[t] - z[y]


def targeted_dlr(z, y, t):
    ordered = np.sort(z)[::-1]
    return (z[t] - z[y]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)


@pytest.mark.parametrize("formula", [margin, log_odds, dlr, towards, targeted_dlr])
def test_losses_are_their_formulas(formula):
    loss = getattr(rv, formula.__name__)
    targets = [TARGET] if formula in (towards, targeted_dlr) else []
    found = loss(Z, Y, *targets)
    expected = [formula(z.numpy(), y, t) for z, y, t in zip(Z, Y, TARGET, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [rv.dlr, lambda z, y: rv.targeted_dlr(z, y, TARGET)])
def test_ratios_do_not_depend_on_the_scale_and_survive_ties(loss):
    torch.testing.assert_close(loss(1e-9 * Z + 3e-9, Y), loss(Z, Y), rtol=1e-6, atol=0)
    tied = torch.zeros(40, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(tied, Y).sum(), tied)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [rv.dlr, lambda z, y: rv.targeted_dlr(z, y, 1 - y)])
def test_ratios_have_a_gradient_where_all_but_two_classes_are_left_out(loss):
    z = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf, -torch.inf]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(z, torch.tensor([0])).sum(), z)
    assert gradient[0, :2].tolist() == [-1, 1]


def test_log_odds_climb_in_the_direction_of_the_cross_entropy():
    z = Z.clone().requires_grad_()
    (found,) = torch.autograd.grad(rv.log_odds(z, Y).sum(), z)
    (expected,) = torch.autograd.grad(F.cross_entropy(z, Y, reduction="sum"), z)
    factor = 1 - z.detach().softmax(1).gather(1, Y[:, None])  # CE = log(1 + e^m)
    torch.testing.assert_close(found * factor, expected)
    assert (factor > 0).all()


@pytest.mark.parametrize("ahead", [-1e4, -90.0, -1.0, 0.0, 20.0, 90.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_gradient_of_the_log_odds_never_vanishes(ahead, dtype):
    z = torch.tensor([[ahead, 0.0, -1.0]], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(rv.log_odds(z, torch.tensor([0])).sum(), z)
    p = 1 / (1 + np.exp(-1))
    expected = torch.tensor([[-1, p, 1 - p]], dtype=dtype)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=torch.finfo(dtype).eps)


# ---- the gradient at the pixels ---------------------------------------------------------------


def test_an_images_gradient_is_the_same_in_any_batch(toys, batch):
    # Steps go by the direction alone, so only the gradient itself shows a mean over the batch.
    (x, y), toy = (batch[0].double(), batch[1]), toys().double().eval()
    alone = [rv.input_gradient(toy, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(rv.input_gradient(toy, x, y), torch.cat(alone))
    assert min(gradient.abs().max() for gradient in alone) > 1e-3
    with torch.no_grad():
        found = rv.input_gradient(toy, x, y, rv.towards, targets=(y + 1) % 3)
    step = 1e-6 * found.sign()
    moved = [rv.towards(toy(images), y, (y + 1) % 3) for images in (x + step, x - step)]
    torch.testing.assert_close((moved[0] - moved[1]) / 2e-6, found.abs().sum((1, 2, 3)))


# ---- the scale of the logits changes no answer, and no attack ---------------------------------


@pytest.mark.parametrize("loss", [rv.log_odds, rv.margin, rv.dlr])
@pytest.mark.parametrize("factor", [2.0**-30, 2.0**20])
def test_images_are_attacked_alike_at_every_scale(loss, factor, threat, toys, batch):
    def attacks(model):
        yield rv.fgsm(model, *batch, threat, loss=loss)
        yield rv.pgd(model, *batch, threat, loss=loss, generator=seeded())

    toy = toys().eval()
    y = batch[1]
    if loss is rv.log_odds:  # with two classes it is a difference, and any factor is a factor
        toy, y = nn.Sequential(toy, nn.Linear(3, 2)).eval(), y.clamp_max(1)
    batch = batch[0], y
    for found, expected in zip(attacks(Scaled(toy, factor)), attacks(toy), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_network_without_a_gradient_in_half_precision_leaves_images_alone(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).half()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = batch[0].half()
    for threat in (Linf(0.03), L2(0.5), PixelL2(0.1)):
        for loss in (rv.log_odds, rv.margin, rv.dlr):
            assert torch.equal(rv.fgsm(model, x, batch[1], threat, loss=loss), x)


@pytest.mark.parametrize("loss", [rv.log_odds, rv.margin, rv.dlr])
def test_tensors_and_mode_of_inference_have_the_same_gradient(loss, toys, batch):
    model = toys().eval()
    expected = rv.input_gradient(model, *batch, loss)
    with torch.inference_mode():
        found = [rv.input_gradient(model, *batch, loss)]
        x, y = (part.clone() for part in batch)
    found.append(rv.input_gradient(model, x, y, loss))
    assert expected.abs().sum() > 0
    assert all(torch.equal(gradient, expected) for gradient in found)


# ---- rounding into the ball ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("ball", [Linf, L2, PixelL2])
@pytest.mark.parametrize("eps", [0.0, 1e-3, 8 / 255, 0.1, 0.3, 1.0])
def test_what_is_inside_stays_and_what_is_outside_comes_in(dtype, ball, eps):
    x = torch.rand(20, 3, 8, 8, generator=seeded()).to(dtype)
    far = torch.rand(20, 3, 8, 8, generator=seeded(1)).to(dtype)
    found = inside(x, far, ball(eps))
    moved = ball(eps).norm(found.double() - x.double())
    assert (moved <= eps * (1 + 1e-6)).all()
    assert found.dtype == dtype
    towards = (found - x) * (far - x)
    assert (towards >= 0).all()
    again = inside(x, found, ball(eps))
    if ball is Linf:
        assert torch.equal(again, found)
    if eps >= 0.1 and dtype != torch.bfloat16:
        assert (moved >= 0.98 * torch.minimum(ball(eps).norm((far - x).double()), moved)).all()
    assert torch.equal(inside(x, x, ball(eps)), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_radius_is_used_to_the_last_bit_but_one(dtype):
    x, one = torch.zeros(1, 1, 1, 1, dtype=dtype), torch.ones((), dtype=dtype)
    for eps in (8 / 255, 0.1, 0.3):  # the nearest float32 numbers are larger
        found = inside(x, x + 1, Linf(eps))
        assert found.item() <= eps
        above = torch.nextafter(found, one)
        above = torch.nextafter(above, one) if dtype == torch.float32 else above
        assert above.item() > eps


# ---- any callable is an attack ---------------------------------------------------------------


def test_a_generator_is_given_where_there_is_a_parameter_for_it():
    def plain(model, x, y):
        return model, x, y

    def drawing(model, x, y, *, generator=None):
        return model, x, y, generator

    assert configured(plain)(1, 2, 3, 4) == (1, 2, 3)
    assert configured(drawing)(1, 2, 3, 4) == (1, 2, 3, 4)
    with pytest.raises(TypeError, match="functools"):
        configured("pgd")  # type: ignore[arg-type]
