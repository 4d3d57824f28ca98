"""Lend a network out for inference and give it back exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
