"""What is the network worth?  Answers under attack, votes and certificates, image by image."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rvlib.attacks import smoothed_pgd
from rvlib.attacks.gradient import configured
from rvlib.checks import OnCopies, check_batch, check_images, check_labels, check_network
from rvlib.data import to_float
from rvlib.inference import eval_mode, logits_of
from rvlib.smoothing import ABSTAIN, Certificates, sample_under_noise, stream
from rvlib.smoothing.noise import seeded
from rvlib.smoothing.votes import CHUNK
from rvlib.threat_models import L2, ThreatModel

SHARE = 0.99
"""Share of the certified radius that an attack inside the ball uses."""

SLACK = 1e-5
"""How far another library's perturbation may be beyond its radius by float32 rounding."""

AnyAttack = Callable[..., Tensor]
"""``attack(model, x, y) -> x_adv``; one with a parameter `generator` is given a seeded one."""


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Device of a network's parameters; without any, that of the images."""
    parameter = next(model.parameters(), None)
    return x.device if parameter is None else parameter.device


def floats(images: Tensor, model: nn.Module) -> Tensor:
    """Pixels in [0, 1] on the network's device."""
    x = to_float(images) if images.dtype == torch.uint8 else images
    return x.to(device_of(model, x))


def attacked_batches(
    model: nn.Module,
    images: Tensor | DataLoader[Any],
    labels: Tensor | None,
    attack: AnyAttack,
    *,
    first_id: int = 0,
    batch_size: int = 256,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attack images batch by batch, on the network's device.

    Parameters
    ----------
    model : nn.Module
        Pixels to logits.
    images : Tensor of shape (N, C, H, W), uint8 or float in [0, 1], or DataLoader
        Images; or batches of images and labels.
    labels : Tensor of shape (N,), int64, or None
        True labels; None if a loader has them.
    attack : callable
        ``attack(model, x, y) -> x_adv``, usually ``functools.partial(rvlib.pgd, threat=...)``.
    first_id : int, default=0
        Index of the first image, part of the address of the attack's randomness.
    batch_size : int, default=256
        Images attacked at once; randomness is drawn for each batch anew.
    seed : int, default=0
        Of the attack's randomness.

    Yields
    ------
    x_adv : Tensor of shape (B, C, H, W)
        Attacked images, in the box.
    y : Tensor of shape (B,)
        Their labels.
    """
    call, first = configured(attack), first_id
    for x, y, largest in _batches(images, labels, batch_size):
        x = floats(x, model)
        y = y.to(x.device)
        if first == first_id:
            check_images(x)
            model = check_network(model, x, max(largest, check_labels(y, x)))
        x = x.contiguous(memory_format=torch.channels_last)
        with eval_mode(model):
            x_adv = call(model, x.clone(), y.clone(), stream(x.device, seed, "attack", first))
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            raise ValueError(f"the attack returned no images of shape {tuple(x.shape)}")
        check_images(x_adv)
        yield x_adv, y
        first += len(x)


def _batches(
    images: Tensor | DataLoader[Any], labels: Tensor | None, size: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Batches of images and labels, and the largest label where all are known."""
    if isinstance(images, Tensor):
        if labels is None:
            raise TypeError("images without labels: give both tensors, or a DataLoader of batches")
        if size < 1 or not len(images):
            raise ValueError(f"{len(images)} images, batch_size={size}: give at least one")
        largest = check_labels(labels, images)
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            yield x, y, largest
    else:
        empty = True
        for x, y in map(check_batch, images):
            yield torch.as_tensor(x), torch.as_tensor(y), -1
            empty = False
        if empty:
            raise ValueError("the loader gives no batch")


def predictions(
    model: nn.Module,
    images: Tensor | DataLoader[Any],
    labels: Tensor | None,
    attack: AnyAttack,
    **options: Any,
) -> Tensor:
    """Classify each image as the attack left it.

    Parameters
    ----------
    model, images, labels, attack : as for ``attacked_batches``
        The network, the images with their labels, and the attack.
    **options
        `first_id`, `batch_size`, `seed`: as for ``attacked_batches``.

    Returns
    -------
    Tensor of shape (N,), int64, on the CPU
        The network's answers, of a tie the first class; the share that equals the label bounds the
        robust accuracy from above.

    Raises
    ------
    ValueError
        If images, labels and network do not fit, the attack leaves the box, or the network gives
        NaN.
    """
    answers = []
    for x_adv, _ in attacked_batches(model, images, labels, attack, **options):
        with eval_mode(model):
            logits = logits_of(model, x_adv)
        if logits.isnan().any():
            raise ValueError("the network gave NaN: its training diverged, or it overflows")
        answers.append(logits.argmax(1).cpu())
    return torch.cat(answers)


def vote_counts(
    model: nn.Module,
    images: Tensor | DataLoader[Any],
    labels: Tensor | None,
    attack: AnyAttack,
    sigma: float,
    n: int,
    *,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Attack images, then let the smoothed network vote on them with noise of its own.

    Parameters
    ----------
    model, images, labels, attack : as for ``attacked_batches``
        The network, the images with their labels, and the attack.
    sigma : float, > 0
        Noise level of the vote.
    n : int
        Votes per image.
    seed : int, default=0
        Of the attack's randomness and of the vote.
    **options
        `first_id`, `batch_size`: as for ``attacked_batches``.

    Returns
    -------
    Tensor of shape (N, K), int64, on the CPU
        Votes by class.
    """
    batches = attacked_batches(model, images, labels, attack, seed=seed, **options)
    draw = partial(sample_under_noise, sigma=sigma, n=n, purpose="prediction", seed=seed)
    return torch.cat([draw(model, x_adv) for x_adv, _ in batches])


def nested_counts(
    model: nn.Module,
    x: Tensor,
    sigma: float,
    ns: Sequence[int],
    *,
    n0: int = 100,
    labels: Tensor | None = None,
    seed: int = 0,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Draw the votes that certificates are made of, for every sample size from one stream.

    Parameters
    ----------
    model : nn.Module
        The base network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    sigma : float, > 0
        Noise level.
    ns : sequence of int
        Rising sample sizes, multiples of 100; each contains the one before.
    n0 : int, default=100
        Votes for the selection of the class.
    labels : Tensor of shape (B,), int64, optional
        True labels: an image whose selected class is another one is certified rightly at no radius
        and gets votes for the smallest size only, zeros for the others.
    seed : int, default=0
        Of the noise.

    Returns
    -------
    selection : Tensor of shape (B, K)
        Votes that select the class.
    counts : dict of int to Tensor of shape (B, K)
        Votes that bound its probability, by sample size.
    """
    ns = list(ns)
    if not ns or ns != sorted(set(ns)) or any(n % CHUNK for n in ns[:-1]):
        raise ValueError(f"ns={ns} must rise, in multiples of {CHUNK}: [100, 1000], say")
    if labels is not None:
        check_labels(labels.to(x.device), x)
    selection = sample_under_noise(model, x, sigma, n0, purpose="selection", seed=seed)
    right = torch.ones(len(x), dtype=torch.bool)
    if labels is not None:
        right = selection.argmax(1) == labels.cpu()
    counts = {ns[0]: sample_under_noise(model, x, sigma, ns[0], seed=seed)}
    for smaller, n in pairwise(ns):
        counts[n] = torch.zeros_like(selection)
        if right.any():
            more = sample_under_noise(
                model, x[right.to(x.device)], sigma, n - smaller, first=smaller, seed=seed
            )
            counts[n][right] = counts[smaller][right] + more
    return selection, counts


def counts_inside(
    model: nn.Module,
    x: Tensor,
    certificates: Certificates,
    sigma: float,
    *,
    first_id: int = 0,
    share: float = SHARE,
    steps: int = 20,
    draws: int = 16,
    n: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Attack each certified image just inside its ball, and let the smoothed network vote.

    Parameters
    ----------
    model : nn.Module
        The base network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    certificates : Certificates
        One per image.
    sigma : float, > 0
        Noise level.
    first_id : int, default=0
        Index of the first image, part of the address of the attack's noise.
    share : float, in [0, 1], default=0.99
        Share of its radius in which each image is attacked.
    steps, draws : int, default=20, 16
        Of ``smoothed_pgd``.
    n : int, default=1000
        Votes per image.
    seed : int, default=0
        Of all noise.

    Returns
    -------
    Tensor of shape (B, K), int64
        Votes under attack, zeros where nothing is certified.  If certificates hold, hardly an
        answer changes.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: beyond the radius nothing is certified")
    if len(certificates.prediction) != len(x):
        told = f"{len(certificates.prediction)} certificates for {len(x)} images"
        raise ValueError(f"{told}: give one per image")
    found = torch.from_numpy((certificates.prediction != ABSTAIN) & (certificates.radius > 0))
    attacked = x.contiguous(memory_format=torch.channels_last).clone()
    for i in found.nonzero()[:, 0].tolist():
        # One image at a time: its noise is addressed by its index, whoever else is certified.
        attacked[i : i + 1] = smoothed_pgd(
            model,
            attacked[i : i + 1],
            torch.tensor([int(certificates.prediction[i])], device=x.device),
            L2(share * float(certificates.radius[i])),
            sigma=sigma,
            draws=draws,
            steps=steps,
            generator=stream(x.device, seed, "inside", first_id + i),
        )
    counts = sample_under_noise(model, attacked, sigma, n, purpose="prediction", seed=seed)
    counts[~found] = 0
    return counts


# --- attacks of other libraries -------------------------------------------------------------------


def checked_attack(attack: AnyAttack, threat: ThreatModel) -> AnyAttack:
    """Make an attack that is not trusted to stay in its ball one that is checked.

    Parameters
    ----------
    attack : callable
        ``attack(model, x, y) -> x_adv``; its randomness may come from its argument `generator`, or
        from PyTorch's global generators, which are seeded before and restored afterwards.
    threat : ThreatModel
        The ball that it claims.

    Returns
    -------
    callable
        ``(model, x, y, generator) -> x_adv``, which raises ValueError where ball or box are left by
        more than rounding.
    """

    def checked(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        # Most libraries need gradients, and do not switch them on.
        with seeded(x.device, seed), torch.inference_mode(False):  # switches gradients on
            scripted = isinstance(model, torch.jit.ScriptModule)  # takes no hooks
            hooks = [] if scripted else [model.register_forward_pre_hook(_usual_layout)]
            try:
                plain = x.clone(memory_format=torch.contiguous_format)
                x_adv = configured(attack)(model, plain, y.clone(), generator)
            finally:
                for hook in hooks:
                    hook.remove()
        if not isinstance(x_adv, Tensor):
            raise TypeError(f"the attack returned {type(x_adv).__name__}, not images")
        x_adv = x_adv.detach()
        if x_adv.shape != x.shape:
            raise ValueError(f"the attack returned {tuple(x_adv.shape)} for {tuple(x.shape)}")
        length, allowed = threat.norm(x_adv - x), torch.as_tensor(threat.eps, device=x.device)
        if not (length <= allowed + SLACK).all():
            raise ValueError(
                f"the attack left the ball {threat.name}: an image moved by {length.max():.6g}"
            )
        if not (x_adv.min() >= -SLACK and x_adv.max() <= 1 + SLACK):
            raise ValueError(
                f"the attack left the box: pixels in [{x_adv.min():.6g}, {x_adv.max():.6g}]"
            )
        return x_adv.clamp(0, 1)

    return checked


def _usual_layout(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Make the gradients at the images contiguous, as other libraries take for granted."""
    for x in inputs:
        if isinstance(x, Tensor) and x.requires_grad:
            x.register_hook(lambda g: None if g is None else g.contiguous())


def from_torchattacks(attack: Any, threat: ThreatModel) -> AnyAttack:
    """Make an attack of torchattacks one for ``predictions``: a class or maker, or an object.

    Parameters
    ----------
    attack : object
        ``torchattacks.PGD(model, eps=8/255)``, or a callable that makes one for a network.
    threat : ThreatModel
        The ball that it claims; checked.

    Returns
    -------
    callable
        As of ``checked_attack``.
    """

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        made = getattr(attack, "model", None)
        if not isinstance(made, nn.Module):
            return attack(model)(x, y)
        if isinstance(model, OnCopies) and made is model.model:
            safe = copy.copy(attack)
            safe.model = model
            return safe(x, y)
        if made is not model:
            raise ValueError("the attack was made for another network than the one evaluated")
        return attack(x, y)

    return checked_attack(call, threat)


def from_foolbox(attack: Any, threat: ThreatModel) -> AnyAttack:
    """Make an attack of foolbox, at the radius of a ball, one for ``predictions``.

    Parameters
    ----------
    attack : foolbox.attacks.base.Attack
        As ``foolbox.attacks.LinfPGD()``.
    threat : ThreatModel
        The ball; checked.

    Returns
    -------
    callable
        As of ``checked_attack``.
    """

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        return attack(wrapped, x, y, epsilons=threat.eps)[1]

    return checked_attack(call, threat)
