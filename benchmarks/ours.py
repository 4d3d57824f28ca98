"""The jobs done by rvlib, this checkout's or another's."""

import copy
import functools
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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


def library() -> Any:
    """Import rvlib; a version before 1.0 under today's names."""
    rvlib: Any = import_module("rvlib")
    return _before_1_0() if rvlib.__version__ < "1" else rvlib


def _before_1_0() -> SimpleNamespace:
    """What the jobs use, today's name -> what it was in rvlib 0.1."""
    names = "attacks smoothing models threat_models objectives training evaluation recipes"
    old = SimpleNamespace(**{name: import_module(f"rvlib.{name}") for name in names.split()})
    sample, at, nested = (
        *(old.smoothing.sample_under_noise, old.smoothing.certify_at),
        old.evaluation.nested_votes,
    )
    return SimpleNamespace(
        **{"Linf": old.threat_models.Linf, "L2": old.threat_models.L2, "pgd": old.attacks.pgd},
        **{"lenet": old.models.LeNet, "resnet18": old.models.resnet18},
        **{"certify": old.smoothing.certify, "certificate": old.smoothing.certificate},
        robust_mask=lambda *a, mask, **options: old.attacks.withstands(*a, **options),
        sweep=old.attacks.withstands_sweep,
        sample_under_noise=lambda *a, noise: sample(*a, sound=noise == "grid"),
        certify_at=lambda *a, n_max, **options: at(*a, most=n_max, **options),
        nested_counts=lambda m, x, *a, **options: nested(m, x.mul(255).byte(), *a, **options),
        adversarial=lambda _: old.objectives.adversarial(old.recipes.ATTACKS["pgd-linf"]),
        fit=functools.partial(old.training.fit, log=lambda line: None),
        bfloat16=functools.cache(lambda network: old.models.Bfloat16(network).eval()),
    )


def calls(lib: Any) -> dict[str, Call]:
    """Functions of rvlib by kind of job; the last two are other settings, to compare with."""

    def attack(norm: str, eps: float, step_size: float) -> dict[str, Any]:
        threat = lib.Linf(eps) if norm == "linf" else lib.L2(eps)
        options = {"steps": j.STEPS, "step_size": step_size, "random_start": False}
        return {"threat": threat, **options}

    def in_bfloat16(job: Job, network: nn.Module) -> tuple[Any, nn.Module]:
        if job.bfloat16 and hasattr(lib, "bfloat16"):
            return nullcontext(), lib.bfloat16(network)
        device = next(network.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=job.bfloat16), network

    def pgd(job: Job, data: Data) -> Tensor:
        context, network = in_bfloat16(job, data.network)
        with context:
            x_adv = lib.pgd(network, data.x, data.y, **attack(*job.balls[0]))
        return answers(data.network, x_adv)

    def robust(job: Job, data: Data) -> Tensor:
        if job.kind == "radii" and hasattr(lib, "sweep"):
            threats = [lib.Linf(eps) for _, eps, _ in job.balls]
            return lib.sweep(*data[:3], threats, random_start=False).flatten()
        masks: list[Any] = [None]
        for ball in job.balls:
            masks.append(lib.robust_mask(*data[:3], mask=masks[-1], **attack(*ball)))
        return torch.cat(masks[1:])

    def votes(job: Job, data: Data, noise: str = "gaussian") -> Tensor:
        context, network = in_bfloat16(job, data.network)
        with context:
            return lib.sample_under_noise(network, data.x, j.SIGMA, job.votes, noise=noise)

    def certificates(job: Job, data: Data) -> Tensor:
        # An image whose selected class is wrong is certified rightly at no radius, however many
        # votes it gets: it gets N0.
        network, x, y, _ = data
        ns = [j.N0, job.votes]
        selection, counts = lib.nested_counts(network, x, j.SIGMA, ns, n0=j.N0, labels=y)
        drawn = counts[job.votes].sum(1, keepdim=True) > 0
        final = torch.where(drawn, counts[job.votes], counts[j.N0])
        return _right(lib.certificate(selection, final, j.ALPHA, j.SIGMA), y)

    def certify(job: Job, data: Data, **options: Any) -> Tensor:
        options |= {"n0": j.N0, "n": job.votes, "alpha": j.ALPHA}
        return _right(lib.certify(data.network, data.x, j.SIGMA, **options), data.y)

    def one_by_one(job: Job, data: Data) -> Tensor:
        parts = zip(*(tensor.split(1) for tensor in data[1:]), strict=True)
        return torch.cat([certify(job, Data(data.network, *part)) for part in parts])

    def certify_at(job: Job, data: Data) -> Tensor:
        options = {"labels": data.y, "n0": j.N0, "n_max": job.votes, "alpha": j.ALPHA}
        found = lib.certify_at(data.network, data.x, j.RADIUS, j.SIGMA, **options)
        return torch.from_numpy((found.prediction == data.y.cpu().numpy()) & found.certified)

    def epoch(job: Job, data: Data) -> Tensor:
        network = copy.deepcopy(data.network)
        objective = lib.adversarial(functools.partial(lib.pgd, **attack(*job.balls[0])))
        options = {"batch_size": j.BATCH, "lr": j.LR, "momentum": j.MOMENTUM, "epochs": 1}
        lib.fit(network, objective, (data.images, data.y), device=data.x.device, **options)
        return answers(network.eval(), data.x)

    return {
        **{"pgd": pgd, "small": pgd, "robust": robust, "radii": robust, "epoch": epoch},
        **{"votes": votes, "grid": functools.partial(votes, noise="grid")},
        **{"certificates": certificates, "certify": one_by_one, "certify_at": certify_at},
        "image_ids": lambda job, data: certify(job, data, image_ids=range(len(data.x))),
        **{j.GAUSSIAN: votes, j.FIXED: certify},
    }


def _right(found: Any, y: Tensor) -> Tensor:
    """Which images (B,) are certified rightly at ``RADIUS``."""
    return torch.from_numpy((found.prediction == y.cpu().numpy()) & (found.radius >= j.RADIUS))
