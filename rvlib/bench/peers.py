"""Other ways to do the same jobs: peers from PyPI, and the papers' pseudo-code written plainly."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.threat_models import L2, Linf
from rvlib.types import Counts, Images, Labels

Attack = Callable[[nn.Module, Images, Labels], Images]
Ball = Linf | L2


def peer_attacks(threat: Ball, steps: int, step_size: float) -> dict[str, Attack]:
    """Make PGD, started at the image, of every peer that is installed.

    Parameters
    ----------
    threat : Linf or L2
        The ball.
    steps : int
        Number of steps.
    step_size : float
        Length of one step.

    Returns
    -------
    dict of str to callable
        Functions of network, images and labels, by the peer's name.
    """
    makers = {"torchattacks": _torchattacks, "foolbox": _foolbox, "art": _art}
    return {
        name: make(threat, steps, step_size)
        for name, make in makers.items()
        if importlib.util.find_spec(name)
    }


def _torchattacks(threat: Ball, steps: int, step_size: float) -> Attack:
    import torchattacks

    make: Any = torchattacks.PGD if isinstance(threat, Linf) else torchattacks.PGDL2
    options = {"eps": threat.eps, "alpha": step_size, "steps": steps, "random_start": False}

    def attack(model: nn.Module, x: Images, y: Labels) -> Images:
        x_adv: Images = make(model, **options)(x, y)
        return x_adv

    return attack


def _foolbox(threat: Ball, steps: int, step_size: float) -> Attack:
    import foolbox

    attacks = foolbox.attacks
    make: Any = attacks.LinfPGD if isinstance(threat, Linf) else attacks.L2PGD
    found = make(abs_stepsize=step_size, steps=steps, random_start=False)

    def attack(model: nn.Module, x: Images, y: Labels) -> Images:
        wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=x.device)
        _, x_adv, _ = found(wrapped, x, y, epsilons=threat.eps)
        images: Images = x_adv
        return images

    return attack


def _art(threat: Ball, steps: int, step_size: float) -> Attack:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    def attack(model: nn.Module, x: Images, y: Labels) -> Images:
        classifier = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            10,
            clip_values=(0, 1),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        found = ProjectedGradientDescentPyTorch(
            classifier,
            norm=np.inf if isinstance(threat, Linf) else 2,
            eps=threat.eps,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=0,
            batch_size=len(x),
            verbose=False,
        )
        return torch.from_numpy(found.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)

    return attack


def plain_certification(model: nn.Module, x: Images, sigma: float, n: int, batch: int) -> Counts:
    """Count votes as Cohen et al.'s SAMPLEUNDERNOISE is written: one image, one batch at a time.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor of shape (B, C, H, W), float
        Images.
    sigma : float
        Noise level.
    n : int
        Votes an image.
    batch : int
        Noisy copies at once.

    Returns
    -------
    Tensor of shape (B, K), int64
        Votes of each class.
    """
    counts = torch.zeros(len(x), 10, dtype=torch.int64)
    with torch.no_grad():
        for i, image in enumerate(x):
            for first in range(0, n, batch):
                copies = image.repeat((min(batch, n - first), 1, 1, 1))
                answers = model(copies + sigma * torch.randn_like(copies)).argmax(1)
                counts[i] += answers.bincount(minlength=10).cpu()
    return counts


def plain_adversarial_epoch(
    model: nn.Module,
    batches: Sequence[tuple[Images, Labels]],
    threat: Linf,
    steps: int,
    step_size: float,
    lr: float,
    momentum: float,
) -> nn.Module:
    """Train on attacked batches as the papers' loop is written: ``loss.backward()`` for every step.

    Parameters
    ----------
    model : nn.Module
        Trained in place.
    batches : sequence of (Tensor, Tensor)
        Images and labels.
    threat : Linf
        The ball.
    steps : int
        Steps of PGD, started at the images.
    step_size : float
        Length of one step.
    lr, momentum : float
        Of SGD.

    Returns
    -------
    nn.Module
        The network.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for x, y in batches:
        delta = torch.zeros_like(x, requires_grad=True)
        model.eval()
        for _ in range(steps):
            F.cross_entropy(model(x + delta), y).backward()
            assert delta.grad is not None
            step: Tensor = delta.detach() + step_size * delta.grad.sign()
            step = step.clamp(-threat.eps, threat.eps)
            delta.data = (x + step).clamp(0, 1) - x
            delta.grad.zero_()
        model.train()
        loss = (F.cross_entropy(model(x), y) + F.cross_entropy(model(x + delta.detach()), y)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
