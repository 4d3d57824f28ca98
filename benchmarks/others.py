"""The jobs done by other libraries, and by the papers' pseudo-code written out."""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import beta, norm
from torch import Tensor, nn

from benchmarks import jobs as j
from benchmarks.jobs import Job
from benchmarks.ours import Call, Data, answers

Ball = tuple[str, float, float]
"""Norm, radius, step size."""


def calls(implementation: str) -> dict[str, Call]:
    """Functions of an implementation by kind of job."""
    if implementation == j.COHEN:
        certify = dict.fromkeys(("certificates", "certify", "image_ids"), cohen_certify)
        return {"votes": cohen_votes, **certify}
    libraries = {"torchattacks": torchattacks, "foolbox": foolbox, "art": art, j.SEQUENCE: sequence}
    attack = libraries.get(implementation, pgd)

    def attacked(job: Job, data: Data) -> Tensor:
        (network, x, y, _), size = data, job.batch or job.images
        parts = list(zip(x.split(size), y.split(size), strict=True))
        x_adv = ((attack(network, *part, ball) for part in parts) for ball in job.balls)
        return torch.cat([answers(network, batch) for batches in x_adv for batch in batches])

    def robust(job: Job, data: Data) -> Tensor:
        return (attacked(job, data).view(-1, job.images) == data.y).flatten()

    right = dict.fromkeys(("robust", "radii", "standard", "fast"), robust)
    return {"pgd": attacked, "small": attacked, "epoch": epoch, **right}


# --- PGD of other libraries, started at the image -------------------------------------------------


def torchattacks(network: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """Attack with torchattacks."""
    import torchattacks as library

    make: Any = library.PGD if ball[0] == "linf" else library.PGDL2
    return make(network, eps=ball[1], alpha=ball[2], steps=j.STEPS, random_start=False)(x, y)


def foolbox(network: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """Attack with foolbox."""
    import foolbox as library

    make: Any = library.attacks.LinfPGD if ball[0] == "linf" else library.attacks.L2PGD
    wrapped = library.PyTorchModel(network, bounds=(0, 1), device=x.device)
    attack = make(abs_stepsize=ball[2], steps=j.STEPS, random_start=False)
    return attack(wrapped, x, y, epsilons=ball[1])[1]


def art(network: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """Attack with ART, the Adversarial Robustness Toolbox."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    kind, eps, step_size = np.inf if ball[0] == "linf" else 2, *ball[1:]
    device, shape = "gpu" if x.is_cuda else "cpu", tuple(x.shape[1:])
    options: dict[str, Any] = {"clip_values": (0, 1), "device_type": device}
    wrapped = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, 10, **options)
    options = {"max_iter": j.STEPS, "batch_size": len(x), "verbose": False}
    attack = ProjectedGradientDescentPyTorch(wrapped, kind, eps, step_size, **options)
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)


def sequence(network: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """Attack with AutoAttack's four attacks, each on the images that stand."""
    return published(network, ball[0], ball[1])(x, y)


def published(
    network: nn.Module,
    norm: str,
    eps: float,
    targets: int = 9,
    steps: int = 100,
    queries: int = 5000,
) -> Any:
    """Put torchattacks' attacks in a row; its own ensemble takes ten steps an attack."""
    import torchattacks as library

    common: dict[str, Any] = {"norm": "Linf" if norm == "linf" else "L2", "eps": eps, "seed": 0}
    # A class more than targets: these are the classes of the highest logits.
    targeted = {**common, "steps": steps, "n_classes": targets + 1}
    attacks = [
        library.APGD(network, loss="ce", steps=steps, **common),
        library.APGDT(network, **targeted),
        library.FAB(network, multi_targeted=True, **targeted),
    ]
    if queries:
        attacks.append(library.Square(network, n_queries=queries, **common))
    return library.MultiAttack(attacks)


# --- pseudo-code ----------------------------------------------------------------------------------


def pgd(network: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """Attack in the l-infinity ball, with nothing in the loop that the equation does not have."""
    (_, eps, step_size), x_t = ball, x
    for _ in range(j.STEPS):
        x_t = x_t.detach().requires_grad_()
        loss = F.cross_entropy(network(x_t), y, reduction="sum")
        x_t = x_t.detach() + step_size * torch.autograd.grad(loss, x_t)[0].sign()
        x_t = (x + (x_t - x).clamp(-eps, eps)).clamp(0, 1)
    return x_t


def epoch(job: Job, data: Data) -> Tensor:
    """Train for an epoch as PGD training is usually written: ``loss.backward()`` in every step."""
    from rvlib.smoothing.noise import stream

    (network, x, y, _), (_, eps, step_size) = data, job.balls[0]
    network = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=j.LR, momentum=j.MOMENTUM)
    order = torch.randperm(len(x), generator=stream("cpu", 0, "order"))  # that of ``fit``
    for batch in order.to(x.device).split(j.BATCH):
        x_b, y_b = x[batch], y[batch]
        delta = torch.zeros_like(x_b, requires_grad=True)
        network.eval()
        for _ in range(j.STEPS):
            F.cross_entropy(network(x_b + delta), y_b).backward()
            assert delta.grad is not None
            step = (delta.detach() + step_size * delta.grad.sign()).clamp(-eps, eps)
            delta.data = (x_b + step).clamp(0, 1) - x_b
            delta.grad.zero_()
        network.train()
        clean, x_adv = network(x_b), x_b + delta.detach()
        optimizer.zero_grad()
        ((F.cross_entropy(clean, y_b) + F.cross_entropy(network(x_adv), y_b)) / 2).backward()
        optimizer.step()
    return answers(network.eval(), x)


@torch.no_grad()
def sample(job: Job, network: nn.Module, x: Tensor, n: int) -> Tensor:
    """Count the votes (K,) on one image, one batch of noisy copies at a time."""
    counts, size = torch.zeros(10, dtype=torch.int64), job.batch or n
    for first in range(0, n, size):
        copies = x.repeat((min(size, n - first), 1, 1, 1))
        predictions = network(copies + j.SIGMA * torch.randn_like(copies)).argmax(1)
        counts += predictions.bincount(minlength=10).cpu()
    return counts


def cohen_votes(job: Job, data: Data) -> Tensor:
    """Count votes as SampleUnderNoise is written, image by image."""
    return torch.stack([sample(job, data.network, x, job.votes) for x in data.x])


def cohen_certify(job: Job, data: Data) -> Tensor:
    """Certify as Certify is written, image by image."""
    right = []
    for x, y in zip(data.x, data.y.tolist(), strict=True):
        selected = int(sample(job, data.network, x, j.N0).argmax())
        k = int(sample(job, data.network, x, job.votes)[selected])
        p = beta.ppf(j.ALPHA, k, job.votes - k + 1) if k else 0.0
        right.append(selected == y and j.SIGMA * norm.ppf(p) >= j.RADIUS)
    return torch.tensor(right)
