"""Lend a network out for inference and give it back exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.checks import first_line
from rvlib.types import check_logits


def check_network(model: object) -> None:
    """Refuse what is no network.

    Parameters
    ----------
    model : object
        The thing to check: a function has no modes and no parameters.

    Raises
    ------
    TypeError
        If it is not a ``torch.nn.Module``, or the class of one.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        name = model.__name__
        raise TypeError(f"the network is the class {name}: make one, {name}()")
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise TypeError(f"the network is {kind}, not a torch.nn.Module: put it into one's forward")


def place_of(model: nn.Module, x: Tensor) -> torch.device:
    """Say where a network is; one without parameters works where the images are.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor
        The images.

    Returns
    -------
    torch.device
        Where to send them.
    """
    parameter = next(model.parameters(), None)
    return x.device if parameter is None else parameter.device


def check_precision(model: nn.Module, x: Tensor) -> None:
    """Refuse images in another precision than a network computes in.

    Parameters
    ----------
    model : nn.Module
        The network; one in half precision may turn its images into that itself.
    x : Tensor of shape (B, C, H, W), float
        The images.

    Raises
    ------
    TypeError
        If the network's numbers are float32 or float64, and the images' others.
    """
    parameter = next(model.parameters(), None)
    known = {torch.float32: "x.float()", torch.float64: "x.double()"}
    if parameter is not None and parameter.dtype in known and x.dtype != parameter.dtype:
        raise TypeError(
            f"images are {x.dtype}, the network computes in {parameter.dtype}: "
            f"use {known[parameter.dtype]}"
        )


def check_fits(model: nn.Module, x: Tensor) -> None:
    """Refuse images that are elsewhere than the network, or in another precision.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        The images.

    Raises
    ------
    TypeError, ValueError
        If they are.
    """
    if (place := place_of(model, x)) != x.device:
        raise ValueError(f"the network is on {place}, images on {x.device}: use model.to(x.device)")
    check_precision(model, x)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a network in evaluation mode with its parameters out of the graph.

    In training mode batch normalisation makes an image's logits depend on its neighbours and an
    attack would move the running statistics; without ``requires_grad`` no parameter gradient is
    computed that nobody reads.

    Parameters
    ----------
    model : nn.Module
        The network to lend out.

    Yields
    ------
    nn.Module
        The same network.  On leaving, the mode of *every* submodule and the ``requires_grad`` of
        every parameter are what they were: a batch normalisation frozen by hand stays frozen.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    >>> _ = model[1].eval()
    >>> with frozen(model):
    ...     [m.training for m in model.modules()]
    [False, False, False]
    >>> [m.training for m in model.modules()]
    [True, True, False]
    """
    check_network(model)
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


@contextmanager
def taking(model: nn.Module, x: Tensor, *, gradient: bool = False) -> Iterator[None]:
    """Turn what torch says of images that do not fit a network into one line that says so.

    Nothing is tried beforehand: only once something has failed is the network asked for one image.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        Images like those that it is about to see.
    gradient : bool, default=False
        Whether its answers are differentiated by the pixels, so that they must be floats that
        depend on them.

    Yields
    ------
    None
        Nothing; the network is used inside.

    Raises
    ------
    TypeError, ValueError
        If the network cannot take one of them, or gives no gradient; any other failure is passed on
        as it was.

    Examples
    --------
    >>> import torch
    >>> with taking(nn.Conv2d(3, 1, 1), x := torch.zeros(2, 8, 8, 3)):
    ...     nn.Conv2d(3, 1, 1)(x)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the network takes no images of shape (8, 8, 3): use x.permute(0, 3, 1, 2)...
    """
    try:
        yield
    except RuntimeError as error:
        if _takes(model, x):
            if gradient:
                _check_gradient(model, x, error)
            raise
        *_, height, width = x.shape
        looks_last = width <= 4 < min(x.shape[1], height)
        remedy = (
            "use x.permute(0, 3, 1, 2), channels come first"
            if looks_last
            else f"give what it was made for ({first_line(error)})"
        )
        raise ValueError(
            f"the network takes no images of shape {tuple(x.shape[1:])}: {remedy}"
        ) from error


def _takes(model: nn.Module, x: Tensor) -> bool:
    """Try one image; a device without memory for it says nothing about the network."""
    with frozen(model), torch.no_grad():
        try:
            model(x[:1].to(place_of(model, x)))
        except RuntimeError as error:
            return "memory" in str(error)
    return True


def _check_gradient(model: nn.Module, x: Tensor, error: RuntimeError) -> None:
    """Refuse a network whose answer has no gradient at the image: what an error came from."""
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        x, gradient = x[:1].detach().clone().requires_grad_(True), None
        try:
            logits = model(x)
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
        except RuntimeError:
            return  # no memory, say: that tells nothing of the network
    if not logits.is_floating_point():
        raise TypeError(
            f"the network's logits are {logits.dtype}, not float: return floats"
        ) from error
    if gradient is None:
        raise ValueError(
            "the network's answer does not depend on the pixels by a gradient: detach nothing and "
            "compute in torch, or use square, which needs none"
        ) from error


@contextmanager
def answering(model: nn.Module, largest_label: int) -> Iterator[nn.Module]:
    """Refuse the network's answers if they are no logits, or have no class for a label.

    On a GPU a label beyond the classes would not be refused but spoil the whole process.  The shape
    of the first answer tells in time, at no cost.

    Parameters
    ----------
    model : nn.Module
        The network.
    largest_label : int
        As ``rvlib.types.check_labels`` found it.

    Yields
    ------
    nn.Module
        The same network.

    Examples
    --------
    >>> import torch
    >>> with answering(nn.Linear(1, 2), 5) as model:
    ...     model(torch.zeros(3, 1))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: label 5 is no class of this network, whose 2 classes are 0, ..., 1: use ...
    """

    def check(model: nn.Module, seen: Any, answer: Any) -> None:
        check_logits(answer, len(seen[0]), largest_label)

    hook = model.register_forward_hook(check)
    try:
        yield model
    finally:
        hook.remove()
