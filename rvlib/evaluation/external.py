"""Attacks of other libraries, evaluated here, with the ball that they claim checked."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks.ascent import check_ball
from rvlib.frozen import frozen
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels

SLACK = 1e-5
"""How far a float32 perturbation may be beyond its radius by rounding, in any of the norms."""

Call = Callable[[nn.Module, Images, Labels], Images]
"""An attack with everything filled in, randomness from torch's global state."""


@dataclass(frozen=True)
class ExternalAttack:
    """An attack from elsewhere as ``predictions`` takes it; what it returns is not trusted.

    Parameters
    ----------
    attack : callable
        Called ``attack(model, x, y)`` with the network in evaluation mode and with copies of the
        images, in the usual memory layout.
    threat : ThreatModel
        The ball that it claims to stay in.
    name : str
        What errors call it, and its rows: letters, digits and ``._-``.
    origin : str
        Where it is from: ``"torchattacks 3.5.1"``, say.
    """

    attack: Call
    threat: ThreatModel
    name: str
    origin: str = "a callable"

    def record(self) -> dict[str, Any]:
        """Say what is known of the attack, for the head of its rows.

        What a callable does is not known: give another name to another one.
        """
        return {"name": self.name, "threat": self.threat.name, "origin": self.origin}

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, generator: torch.Generator
    ) -> Images:
        """Return the attacked images, in the ball and the box; ValueError if they are not."""
        images = x.clone(memory_format=torch.contiguous_format)
        with frozen(model), _usual_layout(model), _seeded(generator, x), torch.enable_grad():
            found = self.attack(model, images, y.clone())
        self._check(found, x)
        return found.detach().clamp(0, 1)

    def _check(self, found: Images, x: Images) -> None:
        if _form(found) != _form(x):
            raise ValueError(f"{self.name} returned {_form(found)} for images {_form(x)}")
        length = self.threat.norm(found.detach() - x).max().item()
        # Written so that NaN, which fails every comparison, is refused too.
        if not length <= self.threat.eps + SLACK:
            raise ValueError(
                f"{self.name} left the ball {self.threat.name}: an image moved by {length:.6g}, "
                f"{length - self.threat.eps:.2g} too far"
            )
        low, high = (v.item() for v in found.detach().aminmax())
        if not (low >= -SLACK and high <= 1 + SLACK):
            raise ValueError(
                f"{self.name} left the box [0, 1] by {max(-low, high - 1):.2g}: "
                f"pixels in [{low:.6g}, {high:.6g}]"
            )


def from_callable(attack: Call, threat: ThreatModel, *, name: str | None = None) -> ExternalAttack:
    """Make any callable an attack that ``predictions`` evaluates.

    Parameters
    ----------
    attack : callable
        ``attack(model, x, y)`` gives the attacked images, same shape and dtype as `x`.
    threat : ThreatModel
        The ball that it claims to stay in: checked on every batch.
    name : str, default=None
        What errors call it; its own name by default.

    Returns
    -------
    ExternalAttack
        Called with network, images, labels and generator.  Its randomness, where it is torch's
        global one, comes from the generator, and the global state is left as it was.

    Examples
    --------
    >>> from rvlib.threat_models import Linf
    >>> attack = from_callable(lambda model, x, y: x + 0.2, Linf(0.1), name="shift")
    >>> x, y = torch.zeros(1, 3, 2, 2), torch.tensor([0])
    >>> attack(nn.Flatten(), x, y, torch.Generator())
    Traceback (most recent call last):
    ValueError: shift left the ball linf 0.1: an image moved by 0.2, 0.1 too far
    """
    if not callable(attack):
        raise TypeError(f"attack is {type(attack).__name__}, not a callable of model, x and y")
    check_ball(threat)
    own_name: str = getattr(attack, "__name__", _kind(attack))
    return ExternalAttack(attack, threat, name or own_name)


def from_torchattacks(
    attack: Any, threat: ThreatModel, *, name: str | None = None
) -> ExternalAttack:
    """Make an object of torchattacks an attack that ``predictions`` evaluates.

    Parameters
    ----------
    attack : torchattacks.attack.Attack, or a callable that makes one of a network
        As ``torchattacks.PGD(model, eps=...)``; it belongs to its network, and another one is
        refused when it is called.  ``lambda model: torchattacks.PGD(model, eps=...)`` is for
        whichever network is evaluated.
    threat : ThreatModel
        The ball that it claims to stay in: checked on every batch.
    name : str, default=None
        What errors call it; its class by default.

    Returns
    -------
    ExternalAttack
        As for ``from_callable``.
    """
    own_name: str = getattr(attack, "__name__", _kind(attack))
    named = name or own_name
    check_ball(threat)
    of_a_network = isinstance(getattr(attack, "model", None), nn.Module)
    if not of_a_network and not inspect.isroutine(attack) and not isinstance(attack, type):
        raise TypeError(f"{named} holds no network: make it as torchattacks.PGD(model, eps=8/255)")

    def call(model: nn.Module, x: Images, y: Labels) -> Images:
        if of_a_network and attack.model is not model:
            raise ValueError(f"{named} was made for another network than the one evaluated")
        found: Images = (attack if of_a_network else attack(model))(x, y)
        return found

    return ExternalAttack(call, threat, named, _installed("torchattacks"))


def from_foolbox(attack: Any, threat: ThreatModel, *, name: str | None = None) -> ExternalAttack:
    """Make an attack of foolbox, at the radius of a ball, one that ``predictions`` evaluates.

    Parameters
    ----------
    attack : foolbox.attacks.base.Attack
        As ``foolbox.attacks.LinfPGD()``; called with ``epsilons=threat.eps``.
    threat : ThreatModel
        The ball, of the norm that the attack is made for: checked on every batch.
    name : str, default=None
        What errors call it; its class by default.

    Returns
    -------
    ExternalAttack
        As for ``from_callable``; of the three results of foolbox the one clipped to the radius.
    """
    check_ball(threat)

    def call(model: nn.Module, x: Images, y: Labels) -> Images:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        _, clipped, _ = attack(wrapped, x, y, epsilons=threat.eps)
        found: Images = clipped
        return found

    return ExternalAttack(call, threat, name or _kind(attack), _installed("foolbox"))


def _form(found: object) -> str:
    """Say of what shape and kind something is."""
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{tuple(found.shape)} {found.dtype} on {found.device}"


def _installed(library: str) -> str:
    """Name a library with its version."""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


def _kind(attack: object) -> str:
    return type(attack).__name__


@contextmanager
def _usual_layout(model: nn.Module) -> Iterator[None]:
    """Let gradients come out as images go in: a network in NHWC memory gives NHWC gradients.

    Those cannot be flattened by ``view``, as several of torchattacks' attacks do.
    """

    def before(_: nn.Module, seen: Any) -> Any:
        x, *more = seen
        if torch.is_tensor(x) and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(torch.Tensor.contiguous)
        return (x, *more)

    hook = model.register_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _seeded(generator: torch.Generator, x: Images) -> Iterator[None]:
    """Let torch's global randomness come from a generator, and give it back as it was."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield
