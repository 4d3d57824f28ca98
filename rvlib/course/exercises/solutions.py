"""The exercises solved, as a student may write them: what every check compares with.

``rvlib handouts`` prints them, so each holds its own imports and nothing from this module.
"""

# The names and arguments are those of the notebooks, whose students give no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, arg-type"
# ruff: noqa: D103


def my_fgsm(model, x, y, eps):
    import torch
    import torch.nn.functional as F

    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


def my_eight_bit(x, x_adv):
    import torch

    return x + torch.trunc(255 * x_adv - 255 * x) / 255


def my_l2_projection(delta, eps):
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return delta * (eps / length).clamp(max=1)


def my_pgd(model, x, y, eps, step, steps):
    import torch
    import torch.nn.functional as F

    def length(delta):
        return delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    x_adv = x.detach()
    for _ in range(steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        delta = x_adv.detach() + step * gradient / length(gradient) - x
        delta = delta * (eps / length(delta)).clamp(max=1)
        x_adv = (x + delta).clamp(0, 1)
    return x_adv


def my_training_loss(model, attack, x, y, alpha):
    import torch.nn.functional as F

    model.eval()
    x_adv = attack(model, x, y)
    model.train()
    clean, attacked = F.cross_entropy(model(x), y), F.cross_entropy(model(x_adv), y)
    return alpha * clean + (1 - alpha) * attacked


def my_collapse_epoch(fgsm_acc, pgd_acc):
    for t in range(1, len(pgd_acc)):
        if pgd_acc[t - 1] - pgd_acc[t] > 20 and fgsm_acc[t] >= fgsm_acc[t - 1]:
            return t + 1
    return None


def my_noisy_copies(x, sigma, n, generator):
    import torch

    return x + sigma * torch.randn(n, *x.shape, generator=generator)


def my_vote(counts, alpha):
    import numpy as np
    from scipy.stats import binom

    second, first = np.sort(counts)[-2:]
    p_value = 2 * binom.sf(first - 1, first + second, 0.5)
    return int(counts.argmax()) if p_value <= alpha else -1


def my_lower_bound(k, n, alpha):
    from scipy.stats import beta

    return float(beta.ppf(alpha, k, n - k + 1)) if k > 0 else 0.0


def my_radius(counts0, counts, alpha, sigma):
    from scipy.stats import beta, norm

    k, n = counts[counts0.argmax()], counts.sum()
    p = beta.ppf(alpha, k, n - k + 1) if k > 0 else 0.0
    return float(sigma * norm.ppf(p)) if p > 0.5 else 0.0


def my_wilson(k, n):
    from math import sqrt

    from scipy.stats import norm

    p, z = k / n, norm.ppf(0.975)
    middle = p + z**2 / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return float((middle - half) / (1 + z**2 / n)), float((middle + half) / (1 + z**2 / n))


def my_certified_accuracy(radii, answers, labels, r):
    return float(((answers == labels) & (radii >= r)).mean())


def my_n_fgsm(model, x, y, eps, noise):
    import torch
    import torch.nn.functional as F

    start = (x + noise).clamp(0, 1).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    return (start.detach() + eps * gradient.sign()).clamp(0, 1)


def my_average_radius(p, sigma):
    from scipy.stats import norm

    return float((sigma * norm.ppf(p)).clip(min=0).mean())


def my_masked_attack(model, x, y, eps):
    import rvlib as rv

    return rv.pgd(model.network, x, y, rv.Linf(eps), steps=50)


def my_noisy_attack(model, x, y, eps):
    import rvlib as rv

    ball, options = rv.Linf(eps), {"draws": 8, "steps": 10}
    return rv.smoothed_pgd(model.network, x, y, ball, sigma=model.sigma, **options)


def my_detector_attack(model, x, y, eps):
    import torch
    import torch.nn.functional as F

    with torch.no_grad():
        logits = model.network(x).scatter(1, y[:, None], -torch.inf)
    target = logits.argmax(1)  # the nearest wrong class, for the image and for the blurred one
    x_adv = x
    for _ in range(50):
        x_adv = x_adv.detach().requires_grad_()
        views = (x_adv, model.blur(x_adv))
        loss = sum(F.cross_entropy(model.network(view), target) for view in views)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() - eps / 10 * gradient.sign()
        x_adv = (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv
