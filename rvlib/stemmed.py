"""Networks that begin with an affine map, which lets many images share the work on their noise."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rvlib.types import Images, Logits


class Stemmed(nn.Module, ABC):
    r"""A network :math:`f = r \circ a` whose first part :math:`a` is affine.

    Of an affine map the noise can be taken apart from the image,

    .. math:: a(x + \delta) = a(x) + a(\delta) - a(0),

    so for many images under the same noise the first layer works once an image and once a draw,
    not once a pair.  A subclass defines ``stem`` and ``after_stem``; and ``forward``, too, where
    the two in a row are not the quickest way to the same logits.
    """

    stem_is_one_layer = False
    """Whether each output of ``stem`` is a sum of weights times pixels, and of a weight."""

    @abstractmethod
    def stem(self, x: Images) -> Tensor:
        """Apply the affine first part: images (B, C, H, W) to features (B, ...), contiguous."""

    @abstractmethod
    def after_stem(self, z: Tensor) -> Logits:
        """Map the stem's output to logits of shape (B, K)."""

    def forward(self, x: Images) -> Logits:
        """Map a batch of images to logits: the stem, then the rest."""
        return self.after_stem(self.stem(x))


class WholeNetwork(Stemmed):
    """Any network as a stemmed one: the stem is the identity, the rest is all of it.

    Parameters
    ----------
    network : nn.Module
        Maps images to logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def stem(self, x: Images) -> Tensor:
        """Leave the images as they are, their channels last: (B, H, W, C)."""
        return x.permute(0, 2, 3, 1).contiguous()

    def after_stem(self, z: Tensor) -> Logits:
        """Apply the network."""
        return self.network(z.permute(0, 3, 1, 2))


def stemmed(model: nn.Module) -> Stemmed:
    """See a network as an affine stem and a rest.

    Parameters
    ----------
    model : nn.Module
        Any network.

    Returns
    -------
    Stemmed
        The network itself if its two parts are all that it does; otherwise a ``WholeNetwork``.

    Examples
    --------
    >>> type(stemmed(nn.Flatten())).__name__
    'WholeNetwork'
    """
    # A forward written elsewhere than the parts (that standardises its input, say) or a hook would
    # be bypassed by calling the parts: then the whole network is the rest.
    if isinstance(model, Stemmed) and not _is_hooked(model):
        forward, *parts = (
            _written_in(type(model), method) for method in ("forward", "stem", "after_stem")
        )
        if forward is Stemmed or all(part is forward for part in parts):
            return model
    return WholeNetwork(model)


def _is_hooked(model: nn.Module) -> bool:
    """Say whether something was put into the way of a forward pass, here or in a part."""
    hooks = (module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return "forward" in vars(model) or any(hooks)


def _written_in(kind: type, method: str) -> type:
    """Find the class that a class has a method from."""
    return next(base for base in kind.__mro__ if method in vars(base))
