"""rvlib.course.exercises: each wrong solution gets its own diagnosis, each right one passes."""

import functools
import math
import random
import statistics
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from rvlib import course
from rvlib.attacks import fgsm
from rvlib.course import notebook
from rvlib.course.exercises.exercise import Exercise
from rvlib.frozen import frozen
from rvlib.smoothing import ABSTAIN
from rvlib.threat_models import L2, Linf

THEMES = ["fgsm", "pgd", "training", "smoothing", "certification", "results"]
EXERCISES = {
    exercise.signature.partition("(")[0].removeprefix("my_"): exercise
    for theme in THEMES
    for exercise in vars(import_module(f"rvlib.course.exercises.{theme}")).values()
    if isinstance(exercise, Exercise)
}


@pytest.fixture
def ask(monkeypatch):
    """Give a solution to the check of this name, as a notebook does; return what it shows."""

    def show(name, student):
        shown = []
        monkeypatch.setattr(notebook, "display", lambda markdown: shown.append(markdown.data))
        assert getattr(course, f"check_{name}")(student) is None
        (text,) = shown
        return text

    return show


# --- What students hand in -----------------------------------------------------------------------


def slope(model, x, y):
    """Gradient of the mean loss, as a student would take it."""
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward(inputs=[x])
    return x.grad


def away(model, x, y, eps):
    return eps * slope(model, x, y).sign()


def lengths(delta):
    return delta.flatten(1).norm(dim=1)[:, None, None, None]


def projected(delta, eps):
    return torch.where(lengths(delta) > eps, eps * delta / lengths(delta), delta)


def unit(gradient):
    return gradient / lengths(gradient)


def step_by_step(move, back=projected, box=True):
    """PGD with a move of one's own and a way back of one's own."""

    def attack(model, x, y, eps, step, steps):
        x_adv = x
        for _ in range(steps):
            x_adv = x_adv + step * move(slope(model, x_adv, y))
            x_adv = x + back(x_adv - x, eps)
            x_adv = x_adv.clamp(0, 1) if box else x_adv
        return x_adv

    return attack


def pgd_drifting(model, x, y, eps, step, steps):
    for _ in range(steps):
        before = x
        x = x + step * unit(slope(model, x, y))
        x = (before + projected(x - before, eps)).clamp(0, 1)
    return x


def pgd_projected_at_the_end(model, x, y, eps, step, steps):
    x_adv = x
    for _ in range(steps):
        x_adv = (x_adv + step * unit(slope(model, x_adv, y))).clamp(0, 1)
    return x + projected(x_adv - x, eps)


def pgd_clamped_at_the_end(*arguments):
    return step_by_step(unit, box=False)(*arguments).clamp(0, 1)


def pgd_of_one_gradient(model, x, y, eps, step, steps):
    x_adv, direction = x, unit(slope(model, x, y))
    for _ in range(steps):
        x_adv = (x + projected(x_adv + step * direction - x, eps)).clamp(0, 1)
    return x_adv


def pgd_with_gradients_piled_up(model, x, y, eps, step, steps):
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(steps):
        F.cross_entropy(model(x + delta), y).backward(inputs=[delta])
        moved = projected(delta.detach() + step * unit(delta.grad), eps)
        delta.data = (x + moved).clamp(0, 1) - x
    return (x + delta).detach()


def pgd_returning_early(model, x, y, eps, step, steps):
    for _ in range(steps):
        x_adv = x + step * unit(slope(model, x, y))
        return (x + projected(x_adv - x, eps)).clamp(0, 1)


def with_steps(change):
    def attack(model, x, y, eps, step, steps):
        return step_by_step(unit)(model, x, y, eps, *change(eps, step, steps))

    return attack


def pgd_of_own_answers(model, x, y, *numbers):
    return step_by_step(unit)(model, x, model(x).argmax(1), *numbers)


def of_batch(delta):
    return delta / delta.norm()


def of_pixel(delta):
    return delta / delta.norm(dim=1, keepdim=True)


def loss_of(weigh, before="eval", after="train", loss=F.cross_entropy):
    """The loss of adversarial training with weights, modes and a loss of one's own."""

    def my_training_loss(model, attack, x, y, alpha):
        getattr(model, before)()
        x_adv = attack(model, x, y)
        getattr(model, after)()
        result = weigh(alpha, loss(model(x), y), loss(model(x_adv), y))
        model.train()
        return result

    return my_training_loss


def weighted(alpha, clean, attacked):
    return alpha * clean + (1 - alpha) * attacked


def first_epoch(fallen, start=1):
    """Walk through the epochs (from 0) and return the first with a fall."""

    def my_collapse_epoch(fgsm_acc, pgd_acc):
        for t in range(1, len(pgd_acc)):
            if fallen(fgsm_acc, pgd_acc, t):
                return t + start
        return None

    return my_collapse_epoch


def collapsed(f, p, t):
    return p[t] < p[t - 1] - 20 and f[t] >= f[t - 1]


def last_epoch(f, p):
    found = [t + 1 for t in range(1, len(p)) if collapsed(f, p, t)]
    return found[-1] if found else None


def worst_epoch(f, p):
    if len(p) < 2:
        return None
    falls = -np.diff(p)
    return int(falls.argmax()) + 2 if falls.max() > 20 else None


def number_for_none(value):
    return lambda f, p: first_epoch(collapsed)(f, p) or value


def voted(p_value, abstain=-1):
    """Vote with a p-value of one's own, of leader, runner-up and all votes."""

    def my_vote(counts, alpha):
        *_, b, a = sorted(counts.tolist())
        return int(counts.argmax()) if p_value(a, b, sum(counts)) <= alpha else abstain

    return my_vote


def two_sided(a, b, n):
    return stats.binomtest(a, a + b).pvalue


def one_sided(a, b, n):
    return stats.binomtest(a, a + b, alternative="greater").pvalue


def vote_upside_down(counts, alpha):
    *_, b, a = sorted(counts.tolist())
    return int(counts.argmax()) if two_sided(a, b, 0) > alpha else -1


def copies(noise):
    """Copies with noise of one's own; x, sigma, n, generator are at hand."""
    return lambda x, sigma, n, g: x + noise(x, sigma, n, g)


def gauss(x, sigma, n, g):
    return sigma * torch.randn(n, *x.shape, generator=g)


def copies_with_a_fixed_seed(x, sigma, n, generator):
    return x + gauss(x, sigma, n, torch.Generator().manual_seed(0))


def beta_quantile(k, n, alpha):
    return stats.beta.ppf(alpha, k, n - k + 1) if k else 0.0


def wald_bound(k, n, alpha):
    p = k / n
    return p + statistics.NormalDist().inv_cdf(alpha) * math.sqrt(p * (1 - p) / n)


def wilson_bound(k, n, alpha):
    z = stats.norm.isf(alpha)
    low = (k + z * z / 2 - z * math.sqrt(k * (n - k) / n + z * z / 4)) / (n + z * z)
    return max(low, 0)


def radius(formula, sample=lambda a, b: b, bound=beta_quantile, choose=lambda a, b: a):
    """Radius with a formula, a sample, a bound and a choice of one's own."""

    def my_radius(counts0, counts, alpha, sigma):
        votes = sample(counts0, counts)
        p = bound(votes[choose(counts0, counts).argmax()], votes.sum(), alpha)
        return formula(p, sigma) if p > 0.5 else 0.0

    return my_radius


def phi_inverse(p, sigma):
    return sigma * stats.norm.ppf(p)


def radius_below_zero(counts0, counts, alpha, sigma):
    return phi_inverse(beta_quantile(counts[counts0.argmax()], counts.sum(), alpha), sigma)


def interval(z=1.96, scale=True, bend=True):
    def my_wilson(k, n):
        p, denominator = k / n, 1 + z**2 / n if scale else 1
        half = z * np.sqrt(p * (1 - p) / n + (z**2 / (4 * n**2) if bend else 0))
        return (p + z**2 / (2 * n) - half) / denominator, (p + z**2 / (2 * n) + half) / denominator

    return my_wilson


def wald(k, n):
    p = k / n
    half = 1.96 * np.sqrt(p * (1 - p) / n)
    return [p - half, p + half]


def clopper_pearson(k, n):
    return tuple(stats.binomtest(k, n).proportion_ci(0.95, "exact"))


def agresti_coull(k, n):
    z = 1.96
    p = (k + z**2 / 2) / (n + z**2)
    half = z * math.sqrt(p * (1 - p) / (n + z**2))
    return p - half, p + half


def certified(counted, among=lambda answers, labels: np.ones(len(answers), bool)):
    def my_certified_accuracy(radii, answers, labels, r):
        chosen = among(answers, labels)
        return counted(radii, answers == labels, answers == ABSTAIN, r)[chosen].sum() / chosen.sum()

    return my_certified_accuracy


RIGHT = [
    ("fgsm", lambda m, x, y, eps: (x + away(m, x, y, eps)).clamp(0, 1)),
    ("fgsm", lambda m, x, y, eps: torch.clip(x + away(m, x, y, eps), 0, 1)),
    ("fgsm", lambda m, x, y, eps: fgsm(m, x, y, Linf(eps))),
    ("eight_bit", lambda x, x_adv: x + torch.trunc(255 * (x_adv - x)) / 255),
    ("eight_bit", lambda x, x_adv: x + (255 * (x_adv - x)).int() / 255),
    ("l2_projection", lambda delta, eps: L2(eps).project(delta)),
    ("l2_projection", projected),
    ("l2_projection", lambda delta, eps: delta / (lengths(delta) / eps).clamp_min(1)),
    ("pgd", step_by_step(unit)),
    ("pgd", lambda *arguments: step_by_step(unit)(*arguments).double().float()),
    ("training_loss", loss_of(weighted)),
    ("collapse_epoch", first_epoch(collapsed)),
    ("vote", voted(two_sided)),
    ("vote", voted(lambda a, b, n: 2 * one_sided(a, b, n))),
    ("noisy_copies", copies(gauss)),
    (
        "noisy_copies",
        lambda x, sigma, n, g: torch.stack(
            [x + sigma * torch.randn(x.shape, generator=g) for _ in range(n)]
        ),
    ),
    (
        "noisy_copies",
        lambda x, sigma, n, g: torch.normal(x.expand(n, *x.shape), sigma, generator=g),
    ),
    ("lower_bound", beta_quantile),
    (
        "lower_bound",
        lambda k, n, alpha: (
            stats.binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
        ),
    ),
    ("radius", radius(phi_inverse)),
    ("radius", radius(lambda p, sigma: sigma * statistics.NormalDist().inv_cdf(p))),
    ("wilson", interval()),
    ("wilson", lambda k, n: stats.binomtest(k, n).proportion_ci(0.95, "wilson")),
    ("wilson", lambda k, n: np.array(interval()(k, n))),
    ("certified_accuracy", certified(lambda radii, right, none, r: right & (radii >= r))),
    (
        "certified_accuracy",
        lambda radii, answers, labels, r: (
            torch.tensor((answers == labels) & (radii >= r)).double().mean()
        ),
    ),
]


def box_first(model, x, y, eps, step, steps):
    x_adv = x
    for _ in range(steps):
        x_adv = (x_adv + step * unit(slope(model, x_adv, y))).clamp(0, 1)
        x_adv = x + projected(x_adv - x, eps)
    return x_adv


def loss_with_frozen(model, attack, x, y, alpha):
    with frozen(model):
        x_adv = attack(model, x, y)
    return weighted(alpha, F.cross_entropy(model(x), y), F.cross_entropy(model(x_adv), y))


RIGHT += [("pgd", box_first), ("training_loss", loss_with_frozen)]

WRONG = [
    ("fgsm", "clean pictures", lambda m, x, y, eps: x),
    ("fgsm", "walks *down*", lambda m, x, y, eps: (x - away(m, x, y, eps)).clamp(0, 1)),
    ("fgsm", "walks *down*", lambda m, x, y, eps: x - away(m, x, y, eps)),
    ("fgsm", "walks *down*", lambda m, x, y, eps: (x - eps * slope(m, x, y)).clamp(0, 1)),
    ("fgsm", "only the perturbation", away),
    ("fgsm", "the gradient itself", lambda m, x, y, eps: (x + eps * slope(m, x, y)).clamp(0, 1)),
    ("fgsm", "the gradient itself", lambda m, x, y, eps: x + eps * 2 * slope(m, x, y)),
    ("fgsm", "by its length", lambda m, x, y, eps: (x + eps * unit(slope(m, x, y))).clamp(0, 1)),
    ("fgsm", "by its length", lambda m, x, y, eps: x + eps * of_batch(slope(m, x, y))),
    (
        "fgsm",
        "multiplied in twice",
        lambda m, x, y, eps: (x + eps * away(m, x, y, eps)).clamp(0, 1),
    ),
    ("fgsm", "divided by 255", lambda m, x, y, eps: (x + away(m, x, y, eps) / 255).clamp(0, 1)),
    ("fgsm", "multiplied by 255", lambda m, x, y, eps: (x + 255 * away(m, x, y, eps)).clamp(0, 1)),
    ("fgsm", "leave [0, 1]", lambda m, x, y, eps: x + away(m, x, y, eps)),
    (
        "fgsm",
        "network's own answers",
        lambda m, x, y, eps: (x + away(m, x, m(x).argmax(1), eps)).clamp(0, 1),
    ),
    ("eight_bit", "as they were", lambda x, x_adv: x_adv),
    ("eight_bit", "*nearest* level", lambda x, x_adv: torch.round(x_adv * 255) / 255),
    ("eight_bit", "Rounding *down*", lambda x, x_adv: torch.floor(x_adv * 255) / 255),
    ("eight_bit", "Rounding *down*", lambda x, x_adv: x + torch.floor((x_adv - x) * 255) / 255),
    ("eight_bit", "Rounding *down*", lambda x, x_adv: (x_adv * 255).to(torch.uint8) / 255),
    ("eight_bit", "Rounding *up*", lambda x, x_adv: torch.ceil(x_adv * 255) / 255),
    ("eight_bit", "divide by 255", lambda x, x_adv: 255 * x + torch.trunc(255 * (x_adv - x))),
    ("eight_bit", "divide by 255", lambda x, x_adv: (x_adv * 255).to(torch.uint8)),
    ("eight_bit", "from 0 to 255", lambda x, x_adv: x + torch.trunc(256 * (x_adv - x)) / 256),
    ("eight_bit", "from 0 to 255", lambda x, x_adv: torch.floor(256 * x_adv) / 256),
    ("eight_bit", "only the perturbation", lambda x, x_adv: torch.trunc(255 * (x_adv - x)) / 255),
    ("eight_bit", "Count in levels first", lambda x, x_adv: x + torch.trunc(x_adv - x)),
    ("l2_projection", "Nothing has been shrunk", lambda delta, eps: delta),
    (
        "l2_projection",
        "whole *batch*",
        lambda delta, eps: delta * min(1, eps / float(delta.norm())),
    ),
    ("l2_projection", "whole *batch*", lambda delta, eps: eps * of_batch(delta)),
    (
        "l2_projection",
        "*pixel's* colour vector",
        lambda delta, eps: delta * (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1),
    ),
    ("l2_projection", "*pixel's* colour vector", lambda delta, eps: eps * of_pixel(delta)),
    (
        "l2_projection",
        "each colour channel",
        lambda delta, eps: delta * (eps / delta.norm(dim=(2, 3), keepdim=True)).clamp(max=1),
    ),
    ("l2_projection", "clamps every channel", lambda delta, eps: delta.clamp(-eps, eps)),
    ("l2_projection", "every perturbation the length", lambda delta, eps: eps * unit(delta)),
    (
        "l2_projection",
        "*squared* length",
        lambda delta, eps: delta * (eps / lengths(delta) ** 2).clamp(max=1),
    ),
    (
        "l2_projection",
        "*mean* square",
        lambda delta, eps: delta * (eps / lengths(delta) * 12**0.5).clamp(max=1),
    ),
    (
        "l2_projection",
        "the l1 norm",
        lambda delta, eps: (
            delta * (eps / delta.abs().flatten(1).sum(1).view(-1, 1, 1, 1)).clamp(max=1)
        ),
    ),
    ("l2_projection", "length one", lambda delta, eps: unit(delta)),
    (
        "l2_projection",
        "nothing to shrink",
        lambda delta, eps: delta / lengths(delta) * lengths(delta).clamp(max=eps),
    ),
    ("pgd", "clean pictures", lambda model, x, *rest: x),
    ("pgd", "walks *down*", step_by_step(lambda g: -unit(g))),
    ("pgd", "no projection", step_by_step(unit, lambda delta, eps: delta)),
    ("pgd", "no projection", step_by_step(unit, lambda delta, eps: delta, box=False)),
    ("pgd", "the walk drifts away", pgd_drifting),
    ("pgd", "only after the last step, so the gradients", pgd_projected_at_the_end),
    ("pgd", "leave [0, 1]", step_by_step(unit, box=False)),
    ("pgd", "clamps to [0, 1] only after the last step", pgd_clamped_at_the_end),
    ("pgd", "as long as the gradient itself", step_by_step(lambda g: g)),
    ("pgd", "as long as the gradient itself", step_by_step(lambda g: 2 * g)),
    ("pgd", "whole *batch*", step_by_step(of_batch)),
    ("pgd", "*pixel's* gradient", step_by_step(of_pixel)),
    ("pgd", "along the *sign*", step_by_step(torch.sign)),
    (
        "pgd",
        "along the *sign*",
        step_by_step(torch.sign, lambda delta, eps: delta.clamp(-eps, eps)),
    ),
    ("pgd", "the cube of `Linf`", step_by_step(unit, lambda delta, eps: delta.clamp(-eps, eps))),
    (
        "pgd",
        "ball of each *pixel's*",
        step_by_step(unit, lambda d, eps: d * (eps / d.norm(dim=1, keepdim=True)).clamp(max=1)),
    ),
    ("pgd", "always taken at the clean", pgd_of_one_gradient),
    ("pgd", "pile up", pgd_with_gradients_piled_up),
    ("pgd", "one step only", pgd_returning_early),
    ("pgd", "too few or too many", with_steps(lambda eps, step, steps: (step, steps - 1))),
    ("pgd", "too few or too many", with_steps(lambda eps, step, steps: (step, steps + 1))),
    ("pgd", "Each step here is `eps` long", with_steps(lambda eps, step, steps: (eps, steps))),
    ("pgd", "network's own answers", pgd_of_own_answers),
    (
        "pgd",
        "only the perturbation",
        lambda model, x, *rest: step_by_step(unit)(model, x, *rest) - x,
    ),
    ("training_loss", "swapped", loss_of(lambda a, clean, adv: (1 - a) * clean + a * adv)),
    (
        "training_loss",
        "swapped",
        loss_of(lambda a, clean, adv: (1 - a) * clean + a * adv, before="train"),
    ),
    ("training_loss", "Only the clean", loss_of(lambda a, clean, adv: clean)),
    ("training_loss", "Only the attacked", loss_of(lambda a, clean, adv: adv, after="eval")),
    ("training_loss", "without their weights", loss_of(lambda a, clean, adv: clean + adv)),
    ("training_loss", "equal weights", loss_of(lambda a, clean, adv: 0.5 * clean + 0.5 * adv)),
    ("training_loss", "meets the network in *training*", loss_of(weighted, before="train")),
    ("training_loss", "The loss, too,", loss_of(weighted, after="eval")),
    ("training_loss", "other way round", loss_of(weighted, before="train", after="eval")),
    (
        "training_loss",
        "*sum*",
        loss_of(weighted, loss=lambda z, y: len(y) * F.cross_entropy(z, y)),
    ),
    (
        "training_loss",
        "softmax too many",
        loss_of(weighted, loss=lambda z, y: F.cross_entropy(F.softmax(z, dim=1), y)),
    ),
    ("training_loss", "bare number", lambda *arguments: loss_of(weighted)(*arguments).item()),
    ("collapse_epoch", "one too small", first_epoch(collapsed, start=0)),
    ("collapse_epoch", "no number", number_for_none(0)),
    ("collapse_epoch", "no number", number_for_none(-1)),
    ("collapse_epoch", "under FGSM", first_epoch(lambda f, p, t: f[t - 1] - f[t] > 20)),
    ("collapse_epoch", "under FGSM", first_epoch(lambda f, p, t: f[t] - f[t - 1] > 20)),
    ("collapse_epoch", "*last*", last_epoch),
    ("collapse_epoch", "*biggest*", worst_epoch),
    ("collapse_epoch", "stumbled", first_epoch(lambda f, p, t: p[t - 1] - p[t] > 20)),
    ("collapse_epoch", "*below* 20 %", first_epoch(lambda f, p, t: p[t] < 20)),
    ("collapse_epoch", "*best* epoch", first_epoch(lambda f, p, t: max(p[:t]) - p[t] > 20)),
    ("collapse_epoch", "20 *percent*", first_epoch(lambda f, p, t: p[t] < 0.8 * p[t - 1])),
    (
        "collapse_epoch",
        "20 *percent*",
        first_epoch(lambda f, p, t: p[t] < 0.8 * p[t - 1] and f[t] >= f[t - 1]),
    ),
    ("collapse_epoch", "not 0.2", first_epoch(lambda f, p, t: p[t - 1] - p[t] > 0.2)),
    ("collapse_epoch", "*rise*", first_epoch(lambda f, p, t: p[t] - p[t - 1] > 20)),
    (
        "collapse_epoch",
        "is not *more*",
        first_epoch(lambda f, p, t: p[t] <= p[t - 1] - 20 and f[t] >= f[t - 1]),
    ),
    (
        "collapse_epoch",
        "nothing to compare",
        lambda f, p: [first_epoch(collapsed)(f, p), 1][len(p) == 1],
    ),
    ("vote", "always answers", lambda counts, alpha: int(counts.argmax())),
    ("vote", "always abstains", lambda counts, alpha: -1),
    ("vote", "written as -1", voted(two_sided, abstain=None)),
    ("vote", "written as -1", voted(two_sided, abstain=0)),
    ("vote", "number of votes", lambda counts, alpha: int(counts.max())),
    ("vote", "upside down", vote_upside_down),
    ("vote", "*all* votes", voted(lambda a, b, n: stats.binom.sf(a - 1, n, 0.5))),
    ("vote", "*all* votes", voted(lambda a, b, n: 2 * stats.binom.sf(a - 1, n, 0.5))),
    ("vote", "more than half", voted(lambda a, b, n: 0 if a > n / 2 else 1)),
    ("vote", "*one-sided*", voted(one_sided)),
    ("vote", "one vote too late", voted(lambda a, b, n: 2 * stats.binom.sf(a, a + b, 0.5))),
    ("vote", "halved", voted(lambda a, b, n: 2 * two_sided(a, b, n))),
    ("noisy_copies", "without noise", lambda x, sigma, n, g: x.repeat(n, 1, 1, 1)),
    ("noisy_copies", "only the noise", gauss),
    (
        "noisy_copies",
        "the *same* noise",
        copies(lambda x, s, n, g: (s * torch.randn(x.shape, generator=g)).repeat(n, 1, 1, 1)),
    ),
    (
        "noisy_copies",
        "one random number",
        copies(lambda x, s, n, g: s * torch.randn(n, 1, 1, 1, generator=g)),
    ),
    (
        "noisy_copies",
        "grey noise",
        copies(lambda x, s, n, g: s * torch.randn(n, 1, *x.shape[1:], generator=g)),
    ),
    ("noisy_copies", "sigma²", copies(lambda x, s, n, g: s * gauss(x, s, n, g))),
    ("noisy_copies", "*variance* `sigma`", copies(lambda x, s, n, g: gauss(x, s**0.5, n, g))),
    ("noisy_copies", "standard deviation 1", copies(lambda x, s, n, g: gauss(x, 1, n, g))),
    ("noisy_copies", "clipped", lambda *arguments: copies(gauss)(*arguments).clamp(0, 1)),
    (
        "noisy_copies",
        "*uniform*",
        copies(lambda x, s, n, g: s * torch.rand(n, *x.shape, generator=g)),
    ),
    (
        "noisy_copies",
        "*uniform*",
        copies(lambda x, s, n, g: s * (torch.rand(n, *x.shape, generator=g) * 2 - 1)),
    ),
    (
        "noisy_copies",
        "global random state",
        copies(lambda x, s, n, g: s * torch.randn_like(x.expand(n, *x.shape))),
    ),
    ("noisy_copies", "a seed is fixed", copies_with_a_fixed_seed),
    ("lower_bound", "share k/n itself", lambda k, n, alpha: k / n),
    ("lower_bound", "*two-sided*", lambda k, n, alpha: beta_quantile(k, n, alpha / 2)),
    (
        "lower_bound",
        "*upper* bound",
        lambda k, n, alpha: stats.beta.ppf(1 - alpha, k + 1, n - k) if k < n else 1.0,
    ),
    ("lower_bound", "at 1 - `alpha`", lambda k, n, alpha: beta_quantile(k, n, 1 - alpha)),
    ("lower_bound", "some standard errors", wald_bound),
    ("lower_bound", "some standard errors", lambda k, n, alpha: wald_bound(k, n, alpha / 2)),
    ("lower_bound", "Wilson's", wilson_bound),
    (
        "lower_bound",
        "Hoeffding's",
        lambda k, n, alpha: k / n - math.sqrt(math.log(1 / alpha) / 2 / n),
    ),
    ("lower_bound", "Bayesian's", lambda k, n, a: stats.beta.ppf(a, k + 1, n - k + 1)),
    ("lower_bound", "Bayesian's", lambda k, n, a: stats.beta.ppf(a, k + 0.5, n - k + 0.5)),
    ("lower_bound", "one off", lambda k, n, alpha: stats.beta.ppf(alpha, k + 1, n - k)),
    ("lower_bound", "no vote agrees", lambda k, n, a: stats.beta.ppf(a, k, n - k + 1)),
    ("radius", "the *lower bound*", radius(phi_inverse, bound=lambda k, n, alpha: k / n)),
    ("radius", "estimates on `counts0`", radius(phi_inverse, lambda a, b: a)),
    ("radius", "pools", radius(phi_inverse, lambda a, b: a + b)),
    ("radius", "`sigma` is missing", radius(lambda p, sigma: stats.norm.ppf(p))),
    ("radius", "squared", radius(lambda p, sigma: sigma * phi_inverse(p, sigma))),
    ("radius", "divides by `sigma`", radius(lambda p, sigma: stats.norm.ppf(p) / sigma)),
    ("radius", "Φ, `norm.cdf`", radius(lambda p, sigma: sigma * stats.norm.cdf(p))),
    ("radius", "density", radius(lambda p, sigma: sigma * stats.norm.pdf(p))),
    ("radius", "sign is wrong", radius(lambda p, sigma: phi_inverse(1 - p, sigma))),
    (
        "radius",
        "*two-sided*",
        radius(phi_inverse, bound=lambda k, n, alpha: beta_quantile(k, n, alpha / 2)),
    ),
    ("radius", "bound on the probability", radius(lambda p, sigma: p)),
    ("radius", "never negative", radius_below_zero),
    ("radius", "choose on `counts0`", radius(phi_inverse, choose=lambda a, b: b)),
    ("wilson", "plain (Wald)", wald),
    ("wilson", "plain (Wald)", lambda k, n: np.clip(wald(k, n), 0, 1)),
    ("wilson", "Clopper-Pearson", clopper_pearson),
    ("wilson", "Agresti and Coull's", agresti_coull),
    ("wilson", "in percent", lambda k, n: [100 * end for end in interval()(k, n)]),
    ("wilson", "interval of 90 %", interval(1.645)),
    ("wilson", "rounded to 2", interval(2)),
    ("wilson", "denominator", interval(scale=False)),
    ("wilson", "Under the root", interval(bend=False)),
    ("wilson", "wrong order", lambda k, n: interval()(k, n)[::-1]),
    (
        "wilson",
        "half the length",
        lambda k, n: (np.mean(interval()(k, n)), np.diff(interval()(k, n)).item() / 2),
    ),
    (
        "certified_accuracy",
        "left out",
        certified(lambda R, right, none, r: right & (R >= r), lambda a, b: a != -1),
    ),
    (
        "certified_accuracy",
        "answered rightly",
        certified(lambda R, right, none, r: right & (R >= r), lambda a, b: a == b),
    ),
    (
        "certified_accuracy",
        "counted as right",
        certified(lambda R, right, none, r: none | (right & (R >= r))),
    ),
    (
        "certified_accuracy",
        "counted as right",
        certified(lambda R, right, none, r: (none | right) & (R >= r)),
    ),
    ("certified_accuracy", "Wrong answers", certified(lambda R, right, none, r: R >= r)),
    ("certified_accuracy", "Wrong answers", certified(lambda R, right, none, r: (R >= r) & ~none)),
    ("certified_accuracy", "no part", certified(lambda R, right, none, r: right)),
    ("certified_accuracy", "*below*", certified(lambda R, right, none, r: right & (R < r))),
    (
        "certified_accuracy",
        "number of images",
        lambda R, answers, labels, r: sum((answers == labels) & (r <= R)),
    ),
    (
        "certified_accuracy",
        "percentage",
        lambda R, answers, labels, r: 100 * np.mean((answers == labels) & (r <= R)),
    ),
    (
        "certified_accuracy",
        "the end included",
        certified(lambda R, right, none, r: right & (R > r) | (right & (r == 0))),
    ),
]


def label(value):
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("name", "student"), RIGHT, ids=label)
def test_a_right_solution_passes_and_learns_something(ask, name, student):
    assert ask(name, student) == f"**Right.** {EXERCISES[name].fact}"


@pytest.mark.parametrize(("name", "words", "student"), WRONG, ids=label)
def test_a_wrong_solution_gets_its_diagnosis(ask, name, words, student):
    text = ask(name, student)
    assert words in text
    assert text.startswith(("**Not yet.** ", "**Almost.** "))


def diagnoses(exercise):
    yield from exercise.mistakes
    yield from (case.trap for case in exercise.cases() if case.trap)


@pytest.mark.parametrize("name", EXERCISES)
def test_every_diagnosis_is_tried_and_told_apart(name):
    words = {words for exercise, words, _ in WRONG if exercise == name}
    for diagnosis in diagnoses(EXERCISES[name]):
        assert sum(part in diagnosis for part in words) == 1, diagnosis


@pytest.mark.parametrize("name", EXERCISES)
def test_every_way_of_making_a_mistake_is_told_apart(name):
    exercise = EXERCISES[name]
    for words, answers in exercise.mistakes.items():
        for answer in answers:
            assert exercise.verdict(answer) == f"**Not yet.** {words}"


def test_two_exercises_a_notebook_each_with_its_check():
    checks = [name for name in vars(course) if name.startswith("check_")]
    assert sorted(checks) == sorted(f"check_{name}" for name in EXERCISES)
    assert len(checks) == 2 * len(THEMES)


# --- Not begun, not a function, no answer ---------------------------------------------------------


def stub(*arguments): ...


def stub_of_a_notebook(*arguments):
    """Return something."""
    ...


def stub_with_pass(*arguments):
    pass


@pytest.mark.parametrize("student", [stub, stub_of_a_notebook, stub_with_pass])
@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_told_what_to_do(ask, name, student):
    text = ask(name, student)
    assert text.startswith(f"**Not yet.** Fill in `my_{name}(")
    assert EXERCISES[name].task in text


@pytest.mark.parametrize("name", EXERCISES)
def test_a_forgotten_return_is_named(ask, name):
    def student(*arguments):
        list(arguments)

    assert ask(name, student) == f"**Not yet.** `my_{name}` returns nothing: is a `return` missing?"


@pytest.mark.parametrize("student", [None, 3, torch.zeros(2, 3)], ids=["None", "3", "tensor"])
@pytest.mark.parametrize("name", EXERCISES)
def test_a_result_is_no_function(ask, name, student):
    assert "Hand in the function itself" in ask(name, student)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fgsm", [1, 2], "returns a list of 2, not a tensor of shape (2, 3, 2, 2)"),
        ("fgsm", torch.zeros(2, 12), "returns a tensor of shape (2, 12), not a tensor"),
        ("eight_bit", np.zeros((1, 3, 1, 2)), "returns an array of shape (1, 3, 1, 2), not a t"),
        ("training_loss", 0.5, "returns a number, not a tensor of shape ()"),
        ("noisy_copies", torch.zeros(3, 6, 6), "(3, 6, 6), not a tensor of shape (250, 3, 6, 6)"),
        ("vote", "cat", "returns a value of type `str`, not a number"),
        ("vote", "3", "returns a value of type `str`, not a number"),
        ("vote", ..., "returns a value of type `ellipsis`, not a number"),
        ("lower_bound", (0.1, 0.9), "returns a tuple of 2, not a number"),
        ("lower_bound", 10**400, "returns a value of type `int`, not a number"),
        ("wilson", 0.5, "returns a number, not a tuple of 2"),
        ("certified_accuracy", {}, "returns a value of type `dict`, not a number"),
        ("radius", torch.zeros(1), "returns a tensor of shape (1,), not a number"),
    ],
)
def test_the_wrong_kind_is_named(ask, name, value, words):
    assert words in ask(name, lambda *arguments: value)


def test_what_no_mistake_explains_is_shown_in_numbers(ask):
    assert ask("lower_bound", lambda k, n, alpha: 0.25) == (
        "**Not yet.** With `k = 8, n = 10, alpha = 0.05` yours is 0.25, the right answer 0.4931."
    )
    assert ask("collapse_epoch", lambda f, p: 7).endswith("yours is 7, the right answer 4.")
    assert ask("wilson", lambda k, n: (0, 1)).startswith(
        "**Not yet.** With `k = 596, n = 1024` entry [0] of yours is 0, of the right answer 0.5516"
    )


def test_entries_are_named_where_they_differ_most(ask):
    x = EXERCISES["fgsm"].cases()[0].arguments[1]

    def nearly(model, x, y, eps):
        x_adv = fgsm(model, x, y, Linf(eps))
        x_adv[1, 2, 0, 1] += 0.5
        x_adv[0, 1, 1, 1] += 0.4
        return x_adv

    text = ask("fgsm", nearly)
    assert "eps = 0.03` entry [1, 2, 0, 1] of yours is" in text
    assert f"[{x.flatten()[0]:.4g}" not in text  # no pictures in words


def test_samples_are_described_in_words(ask):
    text = ask("noisy_copies", copies(lambda x, s, n, g: 0.8 * gauss(x, s, n, g)))
    assert "The standard deviation of the noise: yours is 0.4" in text
    assert ", the right answer 0.5" in text


# --- What students' code does ---------------------------------------------------------------------


def outer(divisor):
    return 1 / divisor


def student_with_an_error(k, n, alpha):
    share = k / n
    return share + outer(0)


def student_without_an_end(k, n, alpha):
    while True:
        k = k + 0


def student_without_an_end_in_a_helper(k, n, alpha):
    return student_without_an_end(k, n, alpha)


def student_without_an_end_who_catches(k, n, alpha):
    while True:
        try:
            k = k + 0
        except Exception:
            return 0.5


def student_without_an_end_in_a_generator(k, n, alpha):
    return sum(k for _ in iter(int, 1))


def student_without_a_floor(k, n, alpha):
    return student_without_a_floor(k, n, alpha)


def student_who_leaves(k, n, alpha):
    sys.exit(3)


LONG = "`first` line " + 500 * "x" + "\nsecond line"


def student_with_a_long_message(k, n, alpha):
    raise ValueError(f"{LONG}")  # in `Markdown`


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (
            student_with_an_error,
            "**Not yet.** Your function stops with `ZeroDivisionError: division by zero` in line 3"
            ", `return share + outer(0)`.",
        ),
        (student_who_leaves, "`SystemExit: 3` in line 2, `sys.exit(3)`."),
        (student_without_a_floor, "`RecursionError: maximum recursion depth exceeded"),
        (student_without_an_end, "TooLong: 200000 lines have run"),
        (student_without_an_end_in_a_helper, "in line 2, `return student_without_an_end(k, n, al"),
        (student_without_an_end_who_catches, "TooLong: 200000 lines have run"),
        (student_without_an_end_in_a_generator, "TooLong: 200000 lines have run"),
        (
            lambda k, n: k / n,
            "takes 2 positional arguments but 3 were given` when called as `my_lo",
        ),
        (math.sqrt, "`TypeError: math.sqrt() takes exactly one argument (3 given)` when called"),
    ],
)
def test_errors_are_told_in_one_line(ask, student, words):
    text = ask("lower_bound", student)
    assert words in text
    assert "\n" not in text


def test_long_errors_are_cut_and_cannot_break_the_markdown(ask):
    text = ask("lower_bound", student_with_a_long_message)
    assert "`ValueError: 'first' line xxx" in text
    assert "second" not in text
    assert "in line 2, `raise ValueError(f\"{LONG}\")  # in 'Markdown'`." in text
    assert len(text) < 400
    assert text.count("`") == 4


def test_the_line_is_found_through_a_decorator(ask):
    def decorated(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            return function(*arguments)

        return wrapper

    text = ask("lower_bound", decorated(student_with_an_error))
    assert "in line 3, `return share + outer(0)`." in text
    assert "Fill in" in ask("lower_bound", decorated(stub))


def test_an_error_in_a_special_case_only_is_told_with_it(ask):
    text = ask("lower_bound", lambda k, n, alpha: 0 / k + beta_quantile(k, n, alpha))
    assert text.startswith("**Almost.** Where no vote agrees nothing is bounded")
    assert "stops with `ZeroDivisionError: division by zero` in line 1" in text


def test_an_interrupt_is_not_swallowed(ask):
    def student(k, n, alpha):
        raise KeyboardInterrupt

    before = sys.gettrace()
    with pytest.raises(KeyboardInterrupt):
        ask("lower_bound", student)
    assert sys.gettrace() is before


def test_a_trace_function_comes_back(ask):
    def trace(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ask("lower_bound", student_without_an_end)
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is trace


def random_states():
    legacy = np.random.mtrand.get_state(legacy=False)
    numpy = (legacy["state"]["key"].tolist(), legacy["state"]["pos"], legacy["gauss"])
    return torch.get_rng_state().tolist(), random.getstate(), numpy


@pytest.mark.parametrize("name", EXERCISES)
def test_chance_is_the_same_each_time_and_left_alone(ask, name):
    drawn = []

    def student(*arguments):
        drawn.append((torch.rand(1).item(), random.random(), np.random.mtrand.normal()))
        torch.manual_seed(5)
        random.seed(5)
        np.random.mtrand.seed(5)
        torch.set_grad_enabled(False)
        return drawn[-1]

    np.random.mtrand.normal()  # leaves the second one of a pair behind
    before = random_states()
    first, count = ask(name, student), len(drawn)
    assert random_states() == before
    assert torch.is_grad_enabled()
    torch.rand(1), random.random(), np.random.mtrand.normal()
    assert ask(name, student) == first
    assert drawn[:count] == drawn[count:]


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
)
@pytest.mark.parametrize("name", EXERCISES)
def test_gradients_flow_whatever_the_notebooks_mode(ask, name, mode):
    student = next(student for exercise, student in RIGHT if exercise == name)
    with mode():
        assert ask(name, student).startswith("**Right.**")
        assert not torch.is_grad_enabled()


def test_warnings_of_a_students_code_are_no_errors(ask):
    text = ask("lower_bound", lambda k, n, alpha: np.float64(1) / np.float64(0))
    assert "yours is inf" in text


# --- Right values, bad manners --------------------------------------------------------------------


def fgsm_in_place(model, x, y, eps):
    x += away(model, x, y, eps)
    return x.clamp_(0, 1)


def fgsm_that_marks_its_input(model, x, y, eps):
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()


def fgsm_attached(model, x, y, eps):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1)


def fgsm_that_fills_the_parameters(model, x, y, eps):
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y).backward()
    return (x + eps * leaf.grad.sign()).clamp(0, 1)


def fgsm_in_training_mode(model, x, y, eps):
    model.train()
    return (x + away(model, x, y, eps)).clamp(0, 1)


def fgsm_that_learns(model, x, y, eps):
    x_adv = (x + away(model, x, y, eps)).clamp(0, 1)
    with torch.no_grad():
        next(model.parameters()).mul_(0.9)
    return x_adv


def fgsm_that_freezes(model, x, y, eps):
    model.requires_grad_(False)
    return (x + away(model, x, y, eps)).clamp(0, 1)


def loss_left_in_evaluation(model, attack, x, y, alpha):
    loss = loss_of(weighted)(model, attack, x, y, alpha)
    model.eval()
    return loss


def loss_without_graph(*arguments):
    return loss_of(weighted)(*arguments).detach()


def votes_sorted_in_place(counts, alpha):
    answer = voted(two_sided)(counts, alpha)
    counts.sort()
    return answer


def epochs_popped(fgsm_acc, pgd_acc):
    found = first_epoch(collapsed)(fgsm_acc, pgd_acc)
    pgd_acc.pop()
    return found


@pytest.mark.parametrize(
    ("name", "student", "words"),
    [
        ("fgsm", fgsm_in_place, "`x` itself is changed"),
        ("fgsm", fgsm_that_marks_its_input, "`x.requires_grad` stays switched on"),
        ("fgsm", fgsm_attached, "still hangs on the graph"),
        ("fgsm", fgsm_that_fills_the_parameters, "filled the `.grad` of the network's parameters"),
        ("fgsm", fgsm_in_training_mode, "came in evaluation mode and leaves in the other"),
        ("fgsm", fgsm_that_learns, "weights are not what they were"),
        ("fgsm", fgsm_that_freezes, "Parameters of the network have another `requires_grad`"),
        ("training_loss", loss_left_in_evaluation, "came in training mode and leaves in the other"),
        ("training_loss", loss_without_graph, "has lost its graph"),
        ("vote", votes_sorted_in_place, "`counts` itself is changed"),
        ("collapse_epoch", epochs_popped, "`pgd_acc` itself is changed"),
    ],
)
def test_bad_manners_are_named(ask, name, student, words):
    text = ask(name, student)
    assert text.startswith("**Almost.** The values are right, but one thing is not. ")
    assert words in text


def test_a_function_that_draws_copies_may_use_up_its_generator(ask):
    # The one argument that is there to be changed.
    def student(x, sigma, n, generator):
        return copies(gauss)(x, sigma, n, generator)

    assert ask("noisy_copies", student).startswith("**Right.**")


def test_cases_are_made_anew_each_time():
    for exercise in EXERCISES.values():
        for one, other in zip(exercise.cases(), exercise.cases(), strict=True):
            for a, b in zip(one.arguments, other.arguments, strict=True):
                if isinstance(a, torch.Tensor):
                    assert torch.equal(a, b)
                    a.zero_()
        assert exercise.verdict(exercise.rights[0]).startswith("**Right.**")


def test_special_cases_come_last():
    # Verdicts rely on it: a function is called until it goes wrong.
    for exercise in EXERCISES.values():
        special = [bool(case.trap) for case in exercise.cases()]
        assert special == sorted(special)
        assert not special[0]
