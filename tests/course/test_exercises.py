"""rvlib.course.exercises: every mistake is recognised as itself, every right solution passes."""

import itertools
import math
import textwrap
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

import rvlib as rv
from rvlib.course import exercises
from rvlib.course.calls import observe
from rvlib.course.exercises import exercise as engine
from rvlib.course.exercises.exercise import Exercise

CHECKS = {
    name.removeprefix("check_"): check
    for name, check in vars(exercises).items()
    if isinstance(check, Exercise)
}

# --- What students write --------------------------------------------------------------------------
# For each exercise the first lines of a function, then a table: a unique part of the diagnosis, or
# "right", and what functions return that get it, with a word of VARIANTS in several ways.

STUDENTS = {
    "fgsm": """
        g = slope(model, x, y)
        right | clip(x + eps * g.sign()) ; torch.clip(x + eps * torch.sign(2 * g), 0, 1)
        right | rv.fgsm(model, x, y, rv.Linf(eps))
        clean images | x
        *descends* | CLIP(x - eps * g.sign()) ; CLIP(x - eps * g) ; CLIP(x - eps * 2 * g)
        only the perturbation | eps * g.sign()
        the gradient itself | CLIP(x + eps * g) ; CLIP(x + eps * 2 * g)
        by its norm | CLIP(x + eps * unit(g)) ; CLIP(x + eps * g / g.norm())
        multiplied in twice | CLIP(x + eps**2 * g.sign())
        divide it by 255 | CLIP(x + eps / 255 * g.sign())
        not depend on `eps` | clip(x + 8 / 255 * g.sign()) ; clip(x + 0.03 * g.sign())
        what is added | x + clip(eps * g.sign())
        ±`eps` | (x + eps * g.sign()).clamp(-eps, eps)
        softmax | clip(x + eps * slope(lambda x: model(x).softmax(1), x, y).sign())
        black or white | CLIP(x + 255 * eps * g.sign())
        black or white | clip(x + 8 * g.sign()) ; clip(x + g.sign())
        leave [0, 1] | x + eps * g.sign()
        predictions | clip(x + eps * slope(model, x, model(x).argmax(1)).sign())
    """,
    "eight_bit": """
        d = 255 * (x_adv - x)
        right | x + torch.trunc(d) / 255 ; x + d.int() / 255
        Nothing is rounded | x_adv
        *nearest* | torch.round(255 * x_adv) / 255
        *down* | torch.floor(255 * x_adv) / 255 ; x + torch.floor(d) / 255
        *up* | torch.ceil(255 * x_adv) / 255
        pixel units. | 255 * x + torch.trunc(d) ; (255 * x_adv).to(torch.uint8)
        pixel units. | torch.round(255 * x_adv)
        1/256 | x + torch.trunc(256 * (x_adv - x)) / 256 ; torch.floor(256 * x_adv) / 256
        1/256 | torch.round(256 * x_adv) / 256 ; x + torch.trunc(256 * (x_adv - x)) / 255
        turned around | x - torch.trunc(d) / 255
        only the perturbation | torch.trunc(d) / 255
        before rounding | x + torch.trunc(x_adv - x)
    """,
    "l2_projection": """
        n = lengths(delta)
        shrink = lambda length: delta * (eps / length).clamp(max=1)
        right | shrink(n) ; torch.where(n > eps, eps * delta / n, delta) ; rv.L2(eps).project(delta)
        Nothing is shrunk | delta
        *batch* | delta * min(1, eps / float(delta.norm())) ; eps * delta / delta.norm()
        *pixel* | shrink(delta.norm(dim=1, keepdim=True))
        *pixel* | eps * delta / delta.norm(dim=1, keepdim=True)
        *channel* | shrink(delta.norm(dim=(2, 3), keepdim=True))
        clamps every entry | delta.clamp(-eps, eps)
        *every* | eps * delta / n
        *squared* | shrink(n**2)
        *mean* square | shrink(n / 12**0.5)
        l1 norm | shrink(delta.flatten(1).norm(p=1, dim=1).view(-1, 1, 1, 1))
        length 1 | delta / n
        *lengthens* | delta * (eps / n).clamp(min=1)
        with 1, not | eps * delta / n.clamp(min=1) ; delta / n.clamp(min=1)
        Zero stays zero | delta / n * n.clamp(max=eps)
    """,
    "pgd": """
        to_ball = lambda z: x + (z - x) * (eps / lengths(z - x)).clamp(max=1)
        to_pixels = lambda z: x + (z - x) * (eps / (z - x).norm(dim=1, keepdim=True)).clamp(max=1)
        to_cube = lambda z: x + (z - x).clamp(-eps, eps)
        all_or_none = lambda z: x + eps * unit(z - x) if (lengths(z - x) > eps).any() else z
        go = partial(walk, model, x, y, step, steps)
        back = lambda last, z: clip(to_ball(z))
        right | go(unit, back) ; go(unit, lambda last, z: to_ball(clip(z)))
        clean images | x
        *descends* | go(lambda g: -unit(g), back)
        *descends* | go(lambda g: -unit(g), lambda last, z: to_ball(z))
        no projection | go(unit, lambda last, z: clip(z)) ; go(unit, lambda last, z: z)
        *iterate* | go(unit, lambda last, z: clip(last + to_ball(x + z - last) - x))
        *image* onto | go(unit, lambda last, z: clip(z * (eps / lengths(z)).clamp(max=1)))
        projected *image* | go(unit, lambda last, z: clip(x + z * (eps / lengths(z)).clamp(max=1)))
        added to `x` again | go(unit, lambda last, z: clip(to_ball(z) - x))
        *every* perturbation | go(unit, lambda last, z: clip(x + eps * unit(z - x)))
        As soon as *one* | go(unit, lambda last, z: clip(all_or_none(z)))
        `step * eps` | walk(model, x, y, step * eps, steps, unit, back)
        projects only after | to_ball(go(unit, lambda last, z: clip(z)))
        projects only after | clip(to_ball(go(unit, lambda last, z: z)))
        leave [0, 1] | go(unit, lambda last, z: to_ball(z))
        clamps only after | clip(go(unit, lambda last, z: to_ball(z)))
        as long as the gradient | go(lambda g: g, back) ; go(lambda g: 2 * g, back)
        *batch* | go(lambda g: g / g.norm(), back)
        norm of each *pixel* | go(unit_of_pixel, back)
        norm of each *pixel* | go(unit_of_pixel, lambda last, z: clip(to_pixels(z)))
        *sign* | go(torch.sign, back) ; go(torch.sign, lambda last, z: clip(to_cube(z)))
        onto the l∞ ball | go(unit, lambda last, z: clip(to_cube(z)))
        *pixel* by pixel | go(unit, lambda last, z: clip(to_pixels(z)))
        always taken | go(lambda g, first=slope(model, x, y): unit(first), back)
        accumulate | go(lambda g, grad=torch.zeros_like(x): unit(grad.add_(g)), back)
        only one step | walk(model, x, y, step, 1, unit, back)
        too few or too many | walk(model, x, y, step, steps - 1, unit, back)
        too few or too many | walk(model, x, y, step, steps + 1, unit, back)
        The steps have length `eps` | walk(model, x, y, eps, steps, unit, back)
        predictions | walk(model, x, model(x).argmax(1), step, steps, unit, back)
        softmax | walk(lambda x: model(x).softmax(1), x, y, step, steps, unit, back)
        only the perturbation | go(unit, back) - x
    """,
    "training_loss": """
        loss = partial(mixed_loss, model, attack, x, y)
        clean, attacked = (loss(*w, "eval", "train") for w in ((alpha, 0), (0, 1 - alpha)))
        right | loss(alpha, 1 - alpha, "eval", "train")
        right | loss(1, 1 / alpha - 1, "eval", "train") * alpha
        weights are swapped | loss(1 - alpha, alpha, MODES)
        Only the clean | loss(1, 0, MODES) ; loss(alpha, 0, MODES)
        Only the attacked | loss(0, 1, MODES) ; loss(0, 1 - alpha, MODES)
        without their weights | loss(1, 1, MODES)
        equal weights | loss(0.5, 0.5, MODES)
        in *training* mode | loss(alpha, 1 - alpha, "train", "train")
        The loss is taken in | loss(alpha, 1 - alpha, "eval", "eval")
        The loss on `x` | loss(alpha, 1 - alpha, "eval", "train", clean="eval")
        Only the loss on `x` | loss(alpha, 1 - alpha, "eval", "eval", clean="train")
        Both losses have | loss(alpha, alpha, MODES)
        a loss for each image | loss(alpha, 1 - alpha, MODES, reduction="none")
        modes are swapped | loss(alpha, 1 - alpha, "train", "eval")
        *sum* | len(y) * loss(alpha, 1 - alpha, MODES)
        softmax | loss(alpha, 1 - alpha, MODES, lambda z: z.softmax(1))
        plain number | loss(alpha, 1 - alpha, "eval", "train").item()
    """,
    "collapse_epoch": """
        f, p = fgsm_acc, pgd_acc
        when = lambda sign: [t + 1 for t in range(1, len(p)) if sign(t)]
        both = lambda sign: when(lambda t: sign(t) and f[t] >= f[t - 1])
        drops, hits = (kind(lambda t: p[t] < p[t - 1] - 20) for kind in (when, both))
        right | first(hits)
        one too small | first(hits) and first(hits) - 1 ; first(hits, 0) - 1
        valid indices | first(hits, 0) ; first(hits, -1) ; first(hits, len(p))
        `argmax` | int(np.argmax([t in hits for t in range(1, len(p) + 1)])) + 1
        `argmax` | int(np.argmax((np.diff(p) < -20) & (np.diff(f) >= 0))) + 2
        *first* epoch: | first(WHEN(lambda t: p[0] - p[t] > 20))
        under FGSM, which | first(when(lambda t: f[t - 1] - f[t] > 20))
        under FGSM, which | first(when(lambda t: f[t] - f[t - 1] > 20))
        *last* such | first(hits[::-1])
        *largest* | first(sorted(drops, key=lambda t: p[t - 1] - p[t - 2]))
        that FGSM's accuracy shares | first(drops)
        lists are swapped | first(when(lambda t: f[t] < f[t - 1] - 20 and p[t] >= p[t - 1]))
        *high* | first(when(lambda t: p[t] < p[t - 1] - 20 and f[t] > 80))
        counts a *rise* | first(both(lambda t: abs(p[t] - p[t - 1]) > 20))
        *below* | first(WHEN(lambda t: p[t] < 20))
        *best* | first(WHEN(lambda t: max(p[:t]) - p[t] > 20))
        *percent* | first(WHEN(lambda t: p[t] < 0.8 * p[t - 1]))
        not 0.2 | first(WHEN(lambda t: p[t - 1] - p[t] > 0.2))
        finds a *rise* | first(when(lambda t: p[t] - p[t - 1] > 20))
        exactly 20 | first(both(lambda t: p[t] <= p[t - 1] - 20))
        stays the same | first(when(lambda t: p[t] < p[t - 1] - 20 and f[t] > f[t - 1]))
        the *last* epoch | 1 if p[-1] > p[0] + 20 and f[0] >= f[-1] else first(hits)
        A single epoch | first(hits, 1 if len(p) == 1 else None)
    """,
    "vote": """
        *_, b, a = sorted(counts.tolist())
        n, top = counts.sum(), counts.argmax()
        tail = lambda k, n: stats.binom.sf(k - 1, n, 0.5)
        p = stats.binomtest(a, a + b).pvalue
        right | top if p <= alpha else -1 ; int(top) if 2 * tail(a, a + b) <= alpha else -1
        right | rv.vote(counts[None], alpha)[0]
        never abstains | top
        always abstains | -1 ; top if 2 * stats.binom.cdf(a, a + b, 0.5) <= alpha else -1
        the *last* class | len(counts) - 1 if p <= alpha else -1
        equals `alpha` | top if p < alpha else -1
        To abstain | top if p <= alpha else None ; top if p <= alpha else 0
        *number* | counts.max() ; a if p <= alpha else -1
        reversed | top if p > alpha else -1
        *all* votes | top if tail(a, n) <= alpha else -1 ; top if 2 * tail(a, n) <= alpha else -1
        *half* | top if a > n / 2 else -1
        *one-sided* | top if tail(a, a + b) <= alpha else -1
        one vote too late | top if 2 * stats.binom.sf(a, a + b, 0.5) <= alpha else -1
        *exactly* | top if 2 * stats.binom.pmf(a, a + b, 0.5) <= alpha else -1
        *exactly* | top if stats.binom.pmf(a, a + b, 0.5) <= alpha else -1
        halved | top if p <= alpha / 2 else -1
    """,
    "noisy_copies": """
        normal = lambda *shape: torch.randn(shape, generator=generator)
        uniform = lambda: torch.rand(n, *x.shape, generator=generator)
        right | x + sigma * normal(n, *x.shape)
        right | torch.stack([x + sigma * normal(*x.shape) for _ in range(n)])
        right | torch.normal(x.expand(n, *x.shape), sigma, generator=generator)
        without noise | x.repeat(n, 1, 1, 1)
        only the noise | sigma * normal(n, *x.shape)
        *same* noise | CLIP(x + sigma * normal(*x.shape)).repeat(n, 1, 1, 1)
        *one* random number | CLIP(x + sigma * normal(n, 1, 1, 1))
        *channels* | CLIP(x + sigma * normal(n, 1, *x.shape[1:]))
        first copy | torch.cat([x[None], x + sigma * normal(n - 1, *x.shape)])
        *multiplies* | x * (1 + sigma * normal(n, *x.shape))
        *accumulates* | x + torch.stack([sigma * normal(*x.shape) for _ in range(n)]).cumsum(0)
        sigma² | CLIP(x + sigma**2 * normal(n, *x.shape))
        *variance* | CLIP(x + sigma**0.5 * normal(n, *x.shape))
        standard deviation 1 | CLIP(x + normal(n, *x.shape))
        clipped | clip(x + sigma * normal(n, *x.shape)) ; clip(x + sigma * torch.randn(n, *x.shape))
        *uniform* | CLIP(x + sigma * uniform()) ; x + sigma * (2 * uniform() - 1)
        *uniform* | x + sigma * (uniform() - 0.5)
        global random state | x + sigma * torch.randn_like(x.expand(n, *x.shape))
        fix a seed | x + sigma * torch.randn(n, *x.shape, generator=generator.manual_seed(0))
    """,
    "lower_bound": """
        q = stats.beta.ppf
        z, Z = stats.norm.isf(alpha), stats.norm.isf(alpha / 2)
        wilson = lambda z: (k + z**2 / 2 - z * (k * (n - k) / n + z**2 / 4) ** 0.5) / (n + z**2)
        right | q(alpha, k, n - k + 1) if k else 0 ; rv.lower_confidence_bound(k, n, alpha)
        right | stats.binomtest(k, n, alternative="greater").proportion_ci(1 - alpha).low
        *share* | k / n
        *two-sided* | q(alpha / 2, k, n - k + 1)
        *upper* | q(1 - alpha, k + 1, n - k) ; q(1 - alpha, k + 1, n - k) if k < n else 1
        at 1 - `alpha` | q(1 - alpha, k, n - k + 1)
        or nearly | stats.beta.pdf(alpha, k, n - k + 1) ; stats.beta.cdf(alpha, k, n - k + 1)
        Wald | k / n - z * (k / n * (1 - k / n) / n) ** 0.5
        Wald | k / n - Z * (k / n * (1 - k / n) / n) ** 0.5
        Wilson's | wilson(z) ; wilson(Z)
        Hoeffding's | k / n - (math.log(1 / alpha) / 2 / n) ** 0.5
        Bayesian | q(alpha, k + 1, n - k + 1) ; q(alpha, k + 0.5, n - k + 0.5)
        off by one | q(alpha, k + 1, n - k) ; q(alpha, k, n - k)
        *swapped* | q(alpha, n - k + 1, k) ; q(alpha, n - k, k + 1)
        (k = 0) | q(alpha, k, n - k + 1)
    """,
    "radius": """
        class_, inverse = counts0.argmax(), stats.norm.ppf
        bound = lambda c, a=alpha: float(rv.lower_confidence_bound(c[class_], c.sum(), a))
        k = counts[class_]
        p, n, second = bound(counts), counts.sum(), np.delete(counts, class_).max()
        upper = lambda a: stats.beta.ppf(1 - a, second + 1, n - second)
        two = lambda p, q: max(0, sigma / 2 * (inverse(p) - inverse(q)))
        right | sigma * inverse(p) if p > 0.5 else 0 ; max(0.0, sigma * inverse(p))
        right | rv.certificate(counts0[None], counts[None], alpha, sigma).radius[0]
        *lower bound* | sigma * inverse(counts[class_] / counts.sum())
        which chose the class | sigma * inverse(bound(counts0))
        pools | sigma * inverse(bound(counts0 + counts))
        `sigma` is missing | inverse(p)
        *squared* | sigma**2 * inverse(p)
        *divides* | inverse(p) / sigma
        Φ, `norm.cdf` | sigma * stats.norm.cdf(p)
        density | sigma * stats.norm.pdf(p)
        sign is wrong | sigma * inverse(1 - p)
        *two-sided* | sigma * inverse(bound(counts, alpha / 2))
        *probability* | p
        *two* classes | two(p, upper(alpha)) ; two(bound(counts, alpha / 2), upper(alpha / 2))
        *two* classes | two(counts[class_] / n, second / n) ; two(p, second / n)
        at 1 - `alpha` | sigma * inverse(bound(counts, 1 - alpha))
        different votes | max(0, sigma * inverse(rv.lower_confidence_bound(max(counts0), n, alpha)))
        different votes | max(0, sigma * inverse(stats.beta.ppf(alpha, k, counts0.sum() - k + 1)))
        No radius | 0 ; max(0, sigma * inverse(stats.beta.ppf(alpha, n - k + 1, k)))
        (k = 0) | sigma * inverse(p) if p > 0.5 else 0 if k else math.nan
        *half* | sigma / 2 * inverse(p)
        nothing is certified: return 0 | sigma * inverse(p)
        choose by `counts0` | rv.certificate(counts[None], counts[None], alpha, sigma).radius[0]
    """,
    "wilson": """
        p = k / n
        ends = lambda z=1.96, below=None, bend=1: tuple(
            (p + z**2 / 2 / n + sign * z * (p * (1 - p) / n + bend * z**2 / 4 / n**2) ** 0.5)
            / (below or 1 + z**2 / n) for sign in (-1, 1)
        )
        wald = lambda p, n: [p + z * (p * (1 - p) / n) ** 0.5 for z in (-1.96, 1.96)]
        right | ends() ; np.array(ends(stats.norm.ppf(0.975)))
        right | stats.binomtest(k, n).proportion_ci(0.95, "wilson")
        Wald | wald(p, n) ; np.clip(wald(p, n), 0, 1)
        Clopper-Pearson | list(stats.binomtest(k, n).proportion_ci(0.95))
        Agresti | wald((k + 1.96**2 / 2) / (n + 1.96**2), n + 1.96**2)
        Agresti | np.clip(wald((k + 1.96**2 / 2) / (n + 1.96**2), n + 1.96**2), 0, 1)
        percentages | [100 * end for end in ends()]
        of 90 % | ends(1.645)
        rounded to 2 | ends(2)
        is a probability | ends(0.975) ; ends(0.95)
        denominator | ends(below=1)
        under the root | ends(bend=0) ; ends(below=1, bend=0)
        wrong order | ends()[::-1]
        half the length | (np.mean(ends()), (ends()[1] - ends()[0]) / 2)
    """,
    "certified_accuracy": """
        correct, none, far = answers == labels, answers == -1, radii >= r
        right | np.mean(correct & far) ; torch.tensor(correct & far).double().mean()
        left out of | (correct & far)[~none].mean()
        number of *correct* | (correct & far)[correct].mean()
        such a *radius* | correct[far].mean()
        Abstentions count | np.mean(none | correct & far) ; np.mean((none | correct) & far)
        Wrong predictions | np.mean(far) ; np.mean(far & ~none)
        radius is ignored | np.mean(correct)
        *below* | np.mean(correct & (radii < r))
        This is the *number* | sum(correct & far)
        percentage | 100 * np.mean(correct & far)
        By convention | np.mean(correct & ((radii > r) | (r == 0)))
    """,
    "n_fgsm": """
        start = clip(x + noise)
        step = lambda z, at=None: z + eps * slope(model, z if at is None else at, y).sign()
        right | clip(step(start)) ; step(start).clip(0, 1)
        the noise is missing | clip(step(x)) ; rv.fgsm(model, x, y, rv.Linf(eps))
        only the start | start
        The gradient is taken at `x` | clip(step(start, x))
        The step begins at `x` | clip(step(x, start))
        projected into the ball | clip(x + (step(start) - x).clamp(-eps, eps))
        clamp them after the step | step(start)
        clamp it before | clip(step(x + noise))
        multiply it by `eps` | clip(step(clip(x + eps * noise)))
        *descends* | clip(start - eps * slope(model, start, y).sign())
        the gradient itself | clip(start + eps * slope(model, start, y))
        the gradient itself | clip(start + 2 * eps * slope(model, start, y))
        softmax | clip(start + eps * slope(lambda x: model(x).softmax(1), start, y).sign())
        predictions | clip(start + eps * slope(model, start, model(x).argmax(1)).sign())
    """,
    "average_radius": """
        radii = sigma * stats.norm.ppf(p)
        right | np.maximum(radii, 0).mean() ; np.where(p > 0.5, radii, 0).sum() / len(p)
        certified images alone | radii[p > 0.5].mean()
        Radii below zero enter | radii.mean() ; max(0, radii.mean())
        turned around | np.abs(radii).mean()
        the average `p` | sigma * stats.norm.ppf(np.mean(p))
        the average `p` | max(0, sigma * stats.norm.ppf(p.mean()))
        This is the sum | radii.clip(min=0).sum()
        median | np.median(radii.clip(min=0))
        `sigma` is missing | radii.clip(min=0).mean() / sigma
        *squared* | radii.clip(min=0).mean() * sigma
        *divides* | radii.clip(min=0).mean() / sigma**2
        halves the radius | radii.clip(min=0).mean() / 2
        Φ, not its inverse | np.mean(sigma * stats.norm.cdf(p))
    """,
}


def slope(model, x, y):
    """Gradient of the mean loss over the two images."""
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward(inputs=[x])
    return x.grad


def clip(x):
    return x.clamp(0, 1)


def lengths(delta):
    return delta.flatten(1).norm(dim=1)[:, None, None, None]


def unit(gradient):
    return gradient / lengths(gradient)


def unit_of_pixel(gradient):
    return gradient / gradient.norm(dim=1, keepdim=True)


def walk(model, x, y, step, steps, direction, back):
    for _ in range(steps):
        x = back(x, x + step * direction(slope(model, x, y)))
    return x


def mixed_loss(
    model, attack, x, y, mine, theirs, before, after, head=lambda z: z, clean="", reduction="mean"
):
    getattr(model, before)()
    x_adv = attack(model, x, y)
    losses = []
    for images, mode in ((x, clean or after), (x_adv, after)):
        getattr(model, mode)()
        losses.append(F.cross_entropy(head(model(images)), y, reduction=reduction))
    model.train()
    return mine * losses[0] + theirs * losses[1]


def first(epochs, none=None):
    return epochs[0] if epochs else none


VARIANTS = {
    "MODES": ['"eval", "train"', '"train", "train"', '"eval", "eval"'],
    "CLIP": ["clip", ""],
    "WHEN": ["when", "both"],
}
"""What a word in a result stands for, one after the other."""


def variants(result):
    word = next((word for word in VARIANTS if word in result), "")
    return [result.replace(word, each) for each in VARIANTS[word]] if word else [result]


def written(name, result):
    """Define what a student writes: the first lines of the exercise, then the result."""
    lines = textwrap.dedent(STUDENTS[name]).strip().splitlines()
    start = itertools.takewhile(lambda line: " | " not in line, lines)
    names = {**globals(), "np": np, "stats": stats}
    exec("\n    ".join([f"def {CHECKS[name].signature}:", *start, f"return {result}"]), names)
    return names[f"my_{name}"]


SOLUTIONS = [
    (name, line.split(" | ")[0].strip(), written(name, result))
    for name, table in STUDENTS.items()
    for line in table.splitlines()
    if " | " in line
    for each in line.split(" | ", 1)[1].split(" ; ")
    for result in variants(each)
]
RIGHT = [each for each in SOLUTIONS if each[1] == "right"]
WRONG = [each for each in SOLUTIONS if each[1] != "right"]


def label(value):
    return value if isinstance(value, str) else ""


def diagnoses(check):
    return [row for row in check.mistakes if isinstance(row, str)]


@pytest.mark.parametrize(("name", "words", "student"), RIGHT, ids=label)
def test_a_right_solution_gets_the_fact_in_known_and_unseen_cases(name, words, student):
    check, right = CHECKS[name], f"**Right.** {CHECKS[name].fact}"
    assert check.verdict(student) == check.judge_more(partial(observe, student), 7) == right


@pytest.mark.parametrize(("name", "words", "student"), WRONG, ids=label)
def test_a_mistake_is_recognised(name, words, student):
    check = CHECKS[name]
    (full,) = (row for row in (*diagnoses(check), *check.special) if words in row)
    text = check.verdict(student)
    if full in check.special:
        assert text.startswith(f"**Almost.** {full} With `")
    else:
        assert text == f"**Not yet.** {full}"


@pytest.mark.parametrize("name", CHECKS)
def test_every_row_of_a_table_is_needed(name):
    # Some student's results agree with this row and with no other one.
    check, found = CHECKS[name], [student for each, _, student in WRONG if each == name]
    rows = [row for words, row in check._table if words in diagnoses(check)]
    only = set()
    for agrees in map(check._agree, map(check._results, found)):
        agreeing = [k for k, row in enumerate(rows) if agrees(row)]
        only |= {agreeing[0]} if len(agreeing) == 1 else set()
    assert only == set(range(len(rows)))
    words = {words for each, words, _ in WRONG if each == name}
    assert len(words) == len(diagnoses(check)) + len(check.special)


@pytest.mark.parametrize("name", CHECKS)
def test_two_mistakes_at_once_are_both_named(name):
    # Or the one that hides the other: never right, never unknown.
    check = CHECKS[name]
    pairs = [row for row in check._table if row[0].startswith("Two mistakes at once.")]
    found = {words: check.verdict(pair) for words, pair in pairs}
    parts = [row.words for row in check.mistakes if isinstance(row, engine.Part)]
    assert all(any(part in words for words in found) for part in parts)
    assert all(text[13:] in (words, *diagnoses(check)) for words, text in found.items())
    assert sum(text[13:] == words for words, text in found.items()) >= 0.6 * len(found)


@pytest.mark.parametrize("name", CHECKS)
def test_a_memorised_answer_fails_in_unseen_cases(name):
    check = CHECKS[name]
    known = observe(check.answers[0], check.cases[0])
    assert not check.judge_more(lambda case: known, 7).startswith("**Right.**")


OTHERS = """
    fgsm | a channel of your images is 1.5, allowed 0 to 1. | 1.5 * clip(x + eps * g.sign())
    fgsm | you move a channel by 0.5, allowed | clip(x + 0.5 * g.sign())
    fgsm | you move a channel by 0.03138, allowed 0.03 | clip(x + eps * g.sign()).bfloat16()
    fgsm | returns `list` of shape (2,), not `Tensor` of shape (2, 3, 2, 2). | [1, 2]
    fgsm | returns `Tensor` of shape (2, 12), not | torch.zeros(2, 12)
    fgsm | returns `ndarray` of shape (2, 3, 2, 2), not `Tensor` | clip(x + eps * g.sign()).numpy()
    fgsm | **Not yet.** Your function changes `x`: start from `x.clone()`. | x.add_(eps)
    eight_bit | not whole | x_adv + 0.4 / 255 * (x_adv < 0.9)
    eight_bit | levels from `x` | ((255 * x_adv).round() + 3).clamp(0, 255) / 255
    l2_projection | has length 2, yours has 0.8, allowed 0.5. | 0.4 * delta
    l2_projection | points elsewhere than `delta[ | delta.abs() / 9
    l2_projection | choose entry by entry with `where` | eps * delta if n > eps else 0
    pgd | your perturbation of image | x + 0.3 * (0.5 - x).sign()
    training_loss | a mean lies between them. | 9 * model(x).sum().abs() + 99
    training_loss | returns `float`, not `Tensor`. | 0.5
    training_loss | right, but a part of the loss has lost its graph | clean.detach() + attacked
    training_loss | right, but a part of the loss has lost its graph | clean + attacked.detach()
    training_loss | right, but a part of the loss has lost its graph | clean.item() + attacked
    training_loss | right, but a part of the loss has lost its graph | clean + attacked.item()
    collapse_epoch | : yours is 2, the right answer is 4. | 2
    collapse_epoch | : yours is 7, no epoch from 1 to 5. | 7
    collapse_epoch | [60, 38, 45, 3, 30, 4]`: yours is None, the right | 4 if len(p) == 5 else None
    collapse_epoch | yours is a text: return a number, or None without quotes | first(hits, "None")
    collapse_epoch | changes `pgd_acc`: start from `pgd_acc.copy()`. | p.pop()
    vote | yours is 17, no class from 0 to 2 nor -1. | 17
    vote | returns `str`, not `int`. | "3"
    vote | returns `ellipsis`, not `int`. | ...
    vote | Your function changes `counts`: start from `counts.copy()`. | counts.sort() or 1
    vote | [0, 11, 0] | top if 2 * stats.norm.sf((a - b - 1) / (a + b) ** 0.5) <= alpha else -1
    noisy_copies | not `Tensor` of shape (250, 3, 6, 6). | torch.zeros(3, 6, 6)
    noisy_copies | The standard deviation of the noise: yours is 0.3 | x + 0.3 * normal(n, *x.shape)
    noisy_copies | of the noise within a row: yours is | x + sigma * normal(n, 3, 6, 1)
    noisy_copies | same noise, or | x + sigma * normal(n // 2, *x.shape).repeat(2, 1, 1, 1)
    noisy_copies | its negative: | x + sigma * torch.cat([d := normal(n // 2, *x.shape), -d])
    lower_bound | but a lower bound lies between 0 and the share 0.8. | 0.97
    lower_bound | 0.05`: yours is 0.25, the right answer is 0.4931. | 0.25
    lower_bound | returns `list`, not `float`. | [[1], [1, 2]]
    lower_bound | returns `list`, not `float`. | [torch.ones(2, requires_grad=True)]
    lower_bound | returns `int`, not `float`. | 10**400
    lower_bound | 0.05`: your function stops with `ZeroDivision | 0 / k + q(alpha, k, n - k + 1)
    lower_bound | yours is [0], the right answer is 0. | q(alpha, k, n - k + 1) if k else [0]
    radius | that of the share of votes itself. | 5
    wilson | returns `float`, not `tuple` of shape (2,). | 0.5
    wilson | With `k = 596, n = 1024`: entry [0] is 0 and should be 0.5516. | (0, 1)
    wilson | yours goes from 0.5 to nan, but it must hold the share 0.582 | (0.5, math.nan)
    certified_accuracy | between 0 and the clean accuracy 0.6. | 0.99
    certified_accuracy | `&`: `(a == b) & (c >= d)`. | (answers == labels & radii >= r).mean()
    certified_accuracy | `&`: `(a == b) & (c >= d)`. | (answers == labels and radii >= r).mean()
    n_fgsm | your start is not `clamp(x + noise)`, or | torch.full((2, 3, 2, 2), 0.5)
    average_radius | choose entry by entry with `where` | np.mean(sigma * p if p > 0.5 else 0)
"""
"""What no known mistake explains: the exercise, words about it, and what a function returns."""


@pytest.mark.parametrize("line", OTHERS.strip().split("\n    "))
def test_what_no_known_mistake_explains_is_described(line):
    name, words, result = line.split(" | ")
    text = CHECKS[name].verdict(written(name, result))
    assert text.startswith(("**Not yet.** ", "**Almost.** "))
    assert words in text


def test_facts_are_measured():
    fact = CHECKS["wilson"].fact
    assert f"as high as {100 * rv.wilson(0, 1024).high:.2f} %" in fact
    assert f"extends {100 * rv.wilson(512, 1024).high - 50:.1f} points" in fact


# --- Other errors ---------------------------------------------------------------------------------


def empty(*arguments): ...


@pytest.mark.parametrize("name", CHECKS)
def test_a_function_without_a_result_gets_the_task(name):
    text = CHECKS[name].verdict(empty)
    asked = "in every case." if name == "collapse_epoch" else "is a `return` missing?"
    assert text.startswith(f"**Not yet.** `my_{name}` returns None")
    assert asked in text
    assert text.endswith(CHECKS[name].task)


@pytest.mark.parametrize("student", [None, 3.0, torch.zeros(2, 3)])
def test_a_result_is_no_function(student):
    text = CHECKS["fgsm"].verdict(student)
    assert text == "**Not yet.** Pass the function `my_fgsm` itself, without calling it."


def test_the_entry_that_differs_most_is_shown():
    def nearly(model, x, y, eps):
        x_adv = RIGHT[0][2](model, x, y, eps)
        x_adv[1, 2, 0, 1] = x[1, 2, 0, 1]
        x_adv[0, 1, 1, 1] = (x[0, 1, 1, 1] + x_adv[0, 1, 1, 1]) / 2
        return x_adv

    text = CHECKS["fgsm"].verdict(nearly)
    assert text.startswith("**Not yet.** With `y = [")
    assert ", eps = 0.03`: entry [1, 2, 0, 1] is " in text
    assert ", where `x` is 0." in text


# --- Exceptions -----------------------------------------------------------------------------------


def divides(divisor):
    return 1 / divisor


def fails(k, n, alpha):
    return k / n + divides(0)


def fails_at_length(k, n, alpha):
    raise ValueError("`a` " + 500 * "b")  # in `Markdown`


def fails_in_two_lines(k, n, alpha):
    raise ValueError("first\n" + "second")


def fails_without_end(k, n, alpha):
    return fails_without_end(k, n, alpha)


def line_of(function):
    return function.__code__.co_firstlineno + 1


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (fails, f"`ZeroDivisionError: division by zero` in line {line_of(divides)}, `return 1 /"),
        (torch.no_grad()(fails), f"in line {line_of(divides)}, `return 1"),
        (fails_at_length, "`ValueError: 'a' bbb"),
        (fails_at_length, "b` in line"),
        (fails_at_length, "# in 'Markdown'`."),
        (fails_in_two_lines, "`ValueError: first` in line"),
        (fails_without_end, "`RecursionError: maximum recursion depth exceeded"),
        (lambda k, n: k / n, "takes 2 positional arguments but 3 were given`."),
        (math.sqrt, "`TypeError: math.sqrt() takes exactly one argument (3 given)`."),
    ],
)
def test_an_exception_is_shown_in_one_line(student, words):
    text = CHECKS["lower_bound"].verdict(student)
    assert text.startswith("**Not yet.** Your function stops with `")
    assert words in text
    assert "\n" not in text
    assert len(text) < 400


def test_arguments_that_are_too_long_to_read_are_left_out():
    check = CHECKS["lower_bound"]
    just, more = [100] + [1] * 18, [1] * 20  # 59 and 60 characters
    assert check._inputs((just, more, 0.05)) == f"With `k = {just}, alpha = 0.05`"


def test_an_interrupt_passes_through():
    def student(k, n, alpha):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CHECKS["lower_bound"].verdict(student)


# --- Right values, side effects -------------------------------------------------------------------


SIDE_EFFECTS = """
    fgsm | changes `x` | x.mul_(2)
    fgsm | changes `x` | x.requires_grad_()
    fgsm | changes `model` | model.requires_grad_(False)
    fgsm | changes `model` | model[1].bias.data.zero_()
    fgsm | leaves the network in training | model.train()
    fgsm | `loss.backward()` also fills | F.cross_entropy(model(x), y).backward()
    fgsm | keeps its graph | result.requires_grad_()
    fgsm | has dtype `torch.float64` | setattr(result, "data", result.double())
    training_loss | in evaluation mode: set it | model.eval()
    training_loss | the caller does that | result.backward()
    training_loss | lost its graph | result.detach_()
    vote | changes `counts` | counts.sort()
    collapse_epoch | changes `pgd_acc` | pgd_acc.pop()
"""
"""The exercise, what is said about it, and what a function does once it has the right result."""


@pytest.mark.parametrize("line", SIDE_EFFECTS.strip().split("\n    "))
def test_a_side_effect_is_named(line):
    name, words, change = line.split(" | ")
    right = f"CHECKS[{name!r}].answers[0]({CHECKS[name].signature.partition('(')[2]}"
    text = CHECKS[name].verdict(written(name, f"(result := {right}, {change})[0]"))
    assert text.startswith("**Almost.** The values are right, but ")
    assert words in text


@pytest.mark.parametrize("name", ["wilson", "lower_bound", "certified_accuracy", "average_radius"])
def test_none_in_some_cases_is_compared_like_any_result(name):
    (_, _, right), times = next(each for each in RIGHT if each[0] == name), itertools.count()
    text = CHECKS[name].verdict(lambda *case: right(*case) if next(times) % 2 else None)
    assert "yours is None" in text or "returns `NoneType`" in text


def test_a_check_keeps_its_cases():
    before = CHECKS["fgsm"].cases[0][1].clone()
    text = CHECKS["fgsm"].verdict(lambda model, x, y, eps: x.zero_())
    assert torch.equal(CHECKS["fgsm"].cases[0][1], before)
    assert CHECKS["fgsm"].verdict(lambda model, x, y, eps: x.zero_()) == text
    assert CHECKS["fgsm"].verdict(RIGHT[0][2]).startswith("**Right.**")


def test_a_check_shows_its_verdict(monkeypatch):
    shown = []
    monkeypatch.setattr(engine, "display", lambda markdown: shown.append(markdown.data))
    exercises.check_vote(empty)
    assert shown == [exercises.check_vote.verdict(empty)]
