"""What an attack costs: images that went through the network, forwards and backwards."""

from torch import Tensor, nn

from rvlib.inference import Wrapper


class Passes(Wrapper):
    """A network that counts the images of its forward and backward passes.

    Parameters
    ----------
    model : nn.Module
        Any network; its answers and gradients stay what they are.

    Attributes
    ----------
    forwards, backwards : int
        Images so far; a backward pass is counted when its gradient reaches the logits.

    Examples
    --------
    >>> import torch
    >>> from rvlib import input_gradient
    >>> counting = Passes(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    >>> _ = input_gradient(counting, torch.rand(5, 3, 1, 1), torch.zeros(5, dtype=torch.int64))
    >>> counting.forwards, counting.backwards
    (5, 5)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the network, one image counted for each row."""
        return self.count(self.model(x))

    def count(self, logits: Tensor) -> Tensor:
        """Count a pass, given its answers."""
        self.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._count_backwards)
        return logits

    def _count_backwards(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
