"""The jobs done by rvlib: this checkout's, or that of ``--baseline``."""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import rvlib as rv
from benchmarks import jobs as j
from benchmarks.jobs import Job


class Data(NamedTuple):
    """What a job works on, in the memory layout of the implementation."""

    network: nn.Module
    x: Tensor
    y: Tensor
    images: Tensor
    """`x` as bytes, (B, C, H, W)."""


Call = Callable[[Job, Data], Tensor]
"""Does a job: classes (B,), or whether each is right (bool), or votes (B, K)."""


def answers(network: nn.Module, x: Tensor) -> Tensor:
    """Classes (B,) given by a network in evaluation mode."""
    with torch.no_grad():
        return network(x).argmax(1)


def threat_of(norm: str, eps: float) -> rv.ThreatModel:
    """Make the ball of a job."""
    return rv.Linf(eps) if norm == "linf" else rv.L2(eps)


def calls() -> dict[str, Call]:
    """Functions of rvlib by kind of job; the last two are other settings, to compare with."""

    def attack(norm: str, eps: float, step_size: float) -> dict[str, Any]:
        threat = threat_of(norm, eps)
        options = {"steps": j.STEPS, "step_size": step_size, "random_start": False}
        return {"threat": threat, **options}

    def autocast(job: Job, data: Data) -> torch.autocast:
        return torch.autocast(data.x.device.type, torch.bfloat16, enabled=job.bfloat16)

    def pgd(job: Job, data: Data) -> Tensor:
        with autocast(job, data):
            x_adv = rv.pgd(data.network, data.x, data.y, **attack(*job.balls[0]))
        return answers(data.network, x_adv)

    def robust(job: Job, data: Data) -> Tensor:
        masks: list[Any] = [None]
        for ball in job.balls:
            masks.append(rv.robust_mask(*data[:3], mask=masks[-1], **attack(*ball)))
        return torch.cat(masks[1:])

    def ensemble(job: Job, data: Data) -> Tensor:
        (network, x, y, _), (norm, eps, _) = data, job.balls[0]
        threat = threat_of(norm, eps)
        with autocast(job, data):
            x_adv = rv.autoattack(network, x, y, threat, version=job.kind)
        return answers(network, x_adv) == y

    def votes(job: Job, data: Data, noise: str = "gaussian") -> Tensor:
        with autocast(job, data):
            return rv.sample_under_noise(data.network, data.x, j.SIGMA, job.votes, noise=noise)

    def certificates(job: Job, data: Data) -> Tensor:
        # An image whose selected class is wrong is certified rightly at no radius, however many
        # votes it gets: it gets N0.
        network, x, y, _ = data
        ns = [j.N0, job.votes]
        selection, counts = rv.nested_counts(network, x, j.SIGMA, ns, n0=j.N0, labels=y)
        drawn = counts[job.votes].sum(1, keepdim=True) > 0
        final = torch.where(drawn, counts[job.votes], counts[j.N0])
        return _right(rv.certificate(selection, final, j.ALPHA, j.SIGMA), y)

    def certify(job: Job, data: Data, **options: Any) -> Tensor:
        options |= {"n0": j.N0, "n": job.votes, "alpha": j.ALPHA}
        return _right(rv.certify(data.network, data.x, j.SIGMA, **options), data.y)

    def one_by_one(job: Job, data: Data) -> Tensor:
        parts = zip(*(tensor.split(1) for tensor in data[1:]), strict=True)
        return torch.cat([certify(job, Data(data.network, *part)) for part in parts])

    def certify_at(job: Job, data: Data) -> Tensor:
        options = {"labels": data.y, "n0": j.N0, "n_max": job.votes, "alpha": j.ALPHA}
        found = rv.certify_at(data.network, data.x, j.RADIUS, j.SIGMA, **options)
        return torch.from_numpy((found.prediction == data.y.cpu().numpy()) & found.certified)

    def epoch(job: Job, data: Data) -> Tensor:
        network = copy.deepcopy(data.network)
        objective = rv.adversarial(functools.partial(rv.pgd, **attack(*job.balls[0])))
        options = {"batch_size": j.BATCH, "lr": j.LR, "momentum": j.MOMENTUM, "epochs": 1}
        rv.fit(network, objective, (data.images, data.y), device=data.x.device, **options)
        return answers(network.eval(), data.x)

    return {
        **{"pgd": pgd, "small": pgd, "robust": robust, "radii": robust, "epoch": epoch},
        **{"votes": votes, "grid": functools.partial(votes, noise="grid")},
        **{"certificates": certificates, "certify": one_by_one, "certify_at": certify_at},
        "image_ids": lambda job, data: certify(job, data, image_ids=range(len(data.x))),
        **{"standard": ensemble, "fast": ensemble, j.GAUSSIAN: votes, j.FIXED: certify},
    }


def _right(found: Any, y: Tensor) -> Tensor:
    """Which images (B,) are certified rightly at ``RADIUS``."""
    return torch.from_numpy((found.prediction == y.cpu().numpy()) & (found.radius >= j.RADIUS))
