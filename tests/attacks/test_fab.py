"""rvlib.attacks.fab: the way to a plane against other solvers, known distances, honest balls."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

import rvlib as rv
from rvlib.attacks.fab import to_plane
from rvlib.attacks.gradient import fooled
from rvlib.inference import logits_of
from rvlib.threat_models import L2, Linf
from tests.networks import Recorder, Wrapped, double, fab, seeded

BALLS = pytest.mark.parametrize("ball", [Linf, L2])


# ---- the way to the plane -----------------------------------------------------------------------


def problems(count=40):
    """Images with pixels on the walls, gradients with zeros, values in reach and out of it."""
    x = (1.6 * double(count, 1, 2, 3) - 0.3).clamp(0, 1)
    w = 2 * double(count, 1, 2, 3, seed=1) - 1
    w[::5, 0, 0, 0] = 0
    return x, w, 2 * double(count, seed=2) - 1


def least_largest_change(x, w, f):
    """Linear programme: the least t with |d| <= t, 0 <= x + d <= 1 and f + <w, d> = 0."""
    n = len(x)
    both = np.vstack([np.hstack([s * np.eye(n), -np.ones((n, 1))]) for s in (1, -1)])
    found = linprog(
        np.append(np.zeros(n), 1),
        *(both, np.zeros(2 * n), np.append(w, 0)[None], [-f]),
        bounds=[*((-p, 1 - p) for p in x), (0, None)],
    )
    return found.fun if found.success else None


def least_length(x, w, f):
    """Quadratic programme, by a general solver."""
    if np.abs(w) @ np.where(w * f < 0, 1 - x, x) < abs(f):
        return None
    found = minimize(
        *(lambda d: d @ d, np.zeros(len(x))),
        jac=lambda d: 2 * d,
        method="SLSQP",
        bounds=[(-p, 1 - p) for p in x],
        constraints={"type": "eq", "fun": lambda d: f + w @ d, "jac": lambda d: w},
        options={"maxiter": 500, "ftol": 1e-15},
    )
    return np.sqrt(found.fun) if found.success else None


@BALLS
def test_the_way_to_the_plane_is_the_shortest_in_the_box(ball):
    x, w, f = problems()
    way = to_plane(x, w, f, ball(0.1))
    assert (x + way).min() >= -1e-12
    assert (x + way).max() <= 1 + 1e-12
    solve, reached = least_largest_change if ball is Linf else least_length, 0
    for one in range(len(x)):
        pixels, normal, value = (part[one].flatten().numpy() for part in (x, w, f[:, None]))
        d = way[one].flatten().numpy()
        shortest = solve(pixels, normal, float(value[0]))
        if shortest is None:  # the corner that comes nearest
            corner = np.where(normal * value > 0, 0, np.where(normal == 0, pixels, 1))
            np.testing.assert_allclose(pixels + d, corner, atol=1e-12)
        else:
            reached += 1
            assert abs(value[0] + normal @ d) < 1e-9
            np.testing.assert_allclose(ball(0.1).norm(way[one : one + 1]), shortest, atol=1e-6)
    assert 10 < reached < len(x)


@BALLS
def test_the_way_does_not_depend_on_the_scale(ball):
    x, w, f = (part.float() for part in problems())
    way = to_plane(x, w, f, ball(0.1))
    for scale in (2.0**-90, 2.0**60):
        assert torch.equal(to_plane(x, scale * w, scale * f, ball(0.1)), way)
    for nothing in (to_plane(x, 0 * w, f, ball(0.1)), to_plane(x, w, 0 * f, ball(0.1))):
        assert not nothing.any()


# ---- the iteration ------------------------------------------------------------------------------


@BALLS
def test_the_iteration_is_the_papers(ball, toys, batch):
    """Algorithm 1 of one image and target, with the projection that was tested above."""
    # So curved that a step to the plane often misses.
    model, x = Wrapped(toys().eval().double(), lambda x: (9 * x).sin()), batch[0].double()
    y = model(x).argmax(1)
    recorder, came_back = Recorder(model), 0
    fab(recorder, x, y, ball(1e-9), steps=12, targets=(y + 1) % 3)
    for one in range(len(x)):
        image, label, target = x[one : one + 1], int(y[one]), int(y[one] + 1) % 3
        x_i = image
        for seen in recorder.seen:
            torch.testing.assert_close(seen[one : one + 1], x_i, rtol=0, atol=1e-9)
            x_i = x_i.clone().requires_grad_()
            f = (model(x_i)[0, target] - model(x_i)[0, label])[None]
            (w,) = torch.autograd.grad(f.sum(), x_i)
            x_i, f = x_i.detach(), f.detach()
            delta = to_plane(x_i, w, f, ball(1.0))
            delta_0 = to_plane(image, w, f + (w * (image - x_i)).sum(), ball(1.0))
            length, length_0 = ball(1.0).norm(delta), ball(1.0).norm(delta_0)
            alpha = min(float(length / (length + length_0)), 0.1)
            x_i = (1 - alpha) * (x_i + 1.05 * delta) + alpha * (image + 1.05 * delta_0)
            x_i = x_i.clamp(0, 1)
            if int(model(x_i).argmax(1)) != label:
                came_back += 1
                x_i = 0.1 * image + 0.9 * x_i
    assert 4 < came_back < 12 * len(x)


# ---- known distances ----------------------------------------------------------------------------


@BALLS
def test_a_linear_network_falls_at_its_distance(ball):
    """Four classes: the nearest of three planes counts, whatever the first target is."""
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    with torch.no_grad():
        model[1].weight.copy_(2 * double(4, 12, seed=3) - 1)
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    x = 0.4 + 0.2 * double(40, 3, 2, 2)
    z, w = logits_of(model, x), model[1].weight.detach()
    y = z.argmax(1)
    gaps = z.gather(1, y[:, None]) - z
    normals = (w[y][:, None] - w).norm(p=1 if ball is Linf else 2, dim=2)
    distance = (gaps / normals.where(normals > 0, torch.nan)).nan_to_num(9).amin(1)
    assert distance.max() < 0.3  # out of the box's reach
    factor = torch.tensor([0.99, 1.01] * 20, dtype=torch.float64)
    x_adv = fab(model, x, y, ball(factor * distance), steps=20)
    assert torch.equal(fooled(logits_of(model, x_adv), y), factor > 1)
    assert torch.equal(x_adv[factor < 1], x[factor < 1])
    assert (z.topk(2).indices[:, 1] != (gaps / normals).nan_to_num(9).argmin(1)).any()


# ---- who leaves, and what is asked --------------------------------------------------------------


class Step(nn.Module):
    """Class 1 from 0.6 on; from its gradient the way there looks ten times as long."""

    def forward(self, x):
        pixel = x.flatten(1)
        rise = (pixel - 1.5) * 1e-2 + (pixel >= 0.6).double()
        return torch.cat([0 * pixel, rise], 1)


def test_the_last_question_pulls_the_nearest_point_back_into_the_ball():
    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    # A single step goes to the wall and fools from there; at 0.7, inside, it does, too.
    assert fab(Step(), x, y, Linf(0.2), steps=1).item() == pytest.approx(0.7)
    assert fab(Step(), x, y, Linf(0.09), steps=1).item() == 0.5


def test_targets_are_the_wrong_classes_by_rank():
    z = torch.tensor([[3.0, 9, 1, 7, 5], [2, 1, 0, 3, 4]])
    y = torch.tensor([1, 2])
    assert rv.attacks.targets.by_rank(z, y).tolist() == [[3, 4, 0, 2], [4, 3, 0, 1]]
    assert rv.attacks.targets.by_rank(z, y, 2).tolist() == [[3, 4], [4, 3]]


def test_in_half_precision_it_returns_what_fools_or_the_image(toys):
    model, x = toys().eval().bfloat16(), torch.rand(2000, 3, 4, 4, generator=seeded(1)).bfloat16()
    y = model(x).argmax(1)
    for radius in (0.3, 0.5):
        x_adv = fab(model, x, y, L2(radius), steps=10)
        moved = (x_adv != x).flatten(1).any(1)
        assert moved.sum() > 50
        assert fooled(logits_of(model, x_adv), y)[moved].all()
