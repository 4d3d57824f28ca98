"""Golden values, computed by the code before the rewrite (version 0.1.0, commit ad06af8).

Run in a checkout of that commit, ``python make.py values.npz``; ``tests/test_golden.py`` compares
today's code with them.  Attacked images are kept as perturbations: CIFAR-10's images stay where
they are.  Kept though it runs with the old code only: it says how every number was made.
"""

# mypy: ignore-errors
import sys

import numpy as np
import torch
from rvlib.recipes import ATTACKS, RECIPES
from rvlib.stages.run import Run

from rvlib.attacks import fgsm, pgd, smoothed_pgd, square, withstands
from rvlib.data import load_cifar10
from rvlib.objectives import adversarial, gaussian, mixed, standard
from rvlib.smoothing import certificate, certify, certify_at, evidence, sample_under_noise, vote
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.training import fit

IMAGES = 4
BALLS = {"linf": Linf(0.03), "l2": L2(0.5), "pixel-l2": PixelL2(0.045)}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def attacked(run: Run) -> dict[str, torch.Tensor]:
    x, y = run.images(IMAGES)
    robust, noisy = run.model("pgd-linf-at"), run.model("gaussian-0.25")
    found = {}
    for name, ball in BALLS.items():
        found[f"fgsm/{name}"] = fgsm(robust, x, y, ball)
        found[f"pgd/{name}"] = pgd(robust, x, y, ball, random_start=False)
        found[f"pgd-5x2/{name}"] = pgd(
            robust, x, y, ball, steps=5, restarts=2, generator=generator()
        )
        found[f"smoothed/{name}"] = smoothed_pgd(
            noisy, x, y, ball, sigma=0.25, draws=4, steps=3, generator=generator()
        )
    found["square/linf"] = square(robust, x, y, BALLS["linf"], queries=200, generator=generator())
    values = {name: (x_adv - x).contiguous() for name, x_adv in found.items()}
    for name, ball in BALLS.items():
        many, labels = run.images(128)
        values[f"robust-mask/{name}"] = withstands(
            robust, many, labels, ball, restarts=2, generator=generator()
        )
    return values


def voted(run: Run) -> dict[str, torch.Tensor]:
    x, _ = run.images(IMAGES)
    net = run.model("gaussian-0.25")
    counts = {
        "counts": sample_under_noise(net, x, 0.25, 1000, seed=3),
        "counts/later": sample_under_noise(net, x, 0.25, 300, first=1000, seed=3),
        "counts/ids": sample_under_noise(net, x, 0.25, 200, image_ids=range(7, 7 + len(x))),
        "counts/grid": sample_under_noise(net, x, 0.25, 1000, seed=3, sound=True),
    }
    certified, sequential = certify(net, x, 0.25, n=2000), certify_at(net, x, 0.25, 0.25, most=5000)
    pairs = {"certify": certified, "certify-at": sequential}
    return counts | {f"{k}/{i}": v for k, vs in pairs.items() for i, v in enumerate(vs)}


def statistics() -> dict[str, np.ndarray]:
    counts = np.random.default_rng(0).multinomial(1000, [0.6, 0.3, 0.1], size=64)
    k = np.arange(0, 1001, 50)
    found = certificate(counts // 10, counts, 0.001, 0.25)
    return {
        "vote": vote(counts // 20, 0.001),
        "certificate/0": found.prediction,
        "certificate/1": found.radius,
        "log-e-value": evidence(k, 1000, 0.7),
        "log-e-value/smaller": evidence(k, 1000, 0.7, larger=False),
    }


def trained() -> dict[str, torch.Tensor]:
    """Last layer's weights after two epochs on 256 images, for every objective."""
    linf, pixel = ATTACKS["pgd-linf"], ATTACKS["pgd-pixel-l2"]
    objectives = {
        "standard": standard,
        "gaussian": gaussian(0.25),
        "adversarial": adversarial(linf),
        "mixed": mixed([linf, pixel]),
    }
    data = tuple(part[:256] for part in load_cifar10("train"))
    values = {}
    for name, objective in objectives.items():
        net = RECIPES["standard"].build(0)
        fit(net, objective, data, epochs=2, seed=1, log=lambda line: None)
        values[f"fit/{name}"] = net.fc3.weight.detach()
        values[f"fit/{name}/conv1"] = net.conv1.weight.detach()
    return values


if __name__ == "__main__":
    torch.set_num_threads(1)
    opened = Run.open("course", "cpu")
    everything = attacked(opened) | voted(opened) | statistics() | trained()
    everything["machine"] = np.array([torch.__version__, torch.backends.cpu.get_cpu_capability()])
    np.savez_compressed(sys.argv[1], **{k: np.asarray(v) for k, v in everything.items()})
