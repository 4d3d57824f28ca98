"""The networks, from pixels to logits, by name; their weights on disk (``weights.py``)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rvlib.inference import MaxPool2
from rvlib.models.weights import WeightsError as WeightsError
from rvlib.models.weights import load_weights as load_weights
from rvlib.models.weights import read_record as read_record
from rvlib.models.weights import save_weights as save_weights

MODELS: dict[str, Callable[..., nn.Module]] = {}
"""Constructors by the name that recipes and records use."""


def register_model(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Put a constructor into ``MODELS`` under its own name; usable as a decorator."""
    if not hasattr(make, "__name__"):
        raise TypeError(f"{make!r} has no name to be registered by: define a function")
    taken = MODELS.get(make.__name__, make)  # a notebook's cell that runs again is no other
    if taken.__module__ != make.__module__:
        raise ValueError(f"{make.__name__} is a network of {taken.__module__}: choose another name")
    MODELS[make.__name__] = make
    return make


@register_model
def lenet(classes: int = 10, channels: int = 3, size: int = 32) -> nn.Sequential:
    """Make the report's network: two convolutions, three linear layers, 62,006 parameters.

    Parameters
    ----------
    classes : int, default=10
        Number of classes.
    channels : int, default=3
        Colour channels of the images.
    size : int, default=32
        Height and width of the images in pixels.

    Returns
    -------
    nn.Sequential
        Images (B, channels, size, size) to logits (B, classes).

    References
    ----------
    .. [1] LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of
       the IEEE 86(11), 1998; for colour images as in PyTorch's CIFAR-10 tutorial.

    Examples
    --------
    >>> sum(p.numel() for p in lenet().parameters())
    62006
    """
    side = ((size - 4) // 2 - 4) // 2
    # ReLU after pooling gives the same values (both are monotone) on a quarter of the pixels.
    layers = {
        "conv1": nn.Conv2d(channels, 6, 5),
        "pool1": MaxPool2(),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(6, 16, 5),
        "pool2": MaxPool2(),
        "relu2": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(16 * side * side, 120),
        "relu3": nn.ReLU(),
        "fc2": nn.Linear(120, 84),
        "relu4": nn.ReLU(),
        "fc3": nn.Linear(84, classes),
    }
    return nn.Sequential(OrderedDict(layers))


@register_model
def resnet18(classes: int = 10, channels: int = 3) -> nn.Module:
    """Make torchvision's ResNet-18 with a 3 x 3 first convolution of stride 1 and no max-pooling.

    Parameters
    ----------
    classes : int, default=10
        Number of classes.
    channels : int, default=3
        Colour channels of the images.

    Returns
    -------
    nn.Module
        Images (B, channels, 32, 32) to logits (B, classes), randomly initialised.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016;
       the changes for small images are those of section 4.2.
    """
    from torchvision.models import resnet18 as for_imagenet  # slow to import

    network = for_imagenet(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


@register_model
def resnet20(classes: int = 10, channels: int = 3) -> nn.Sequential:
    """Make the ResNet with 20 layers for small images: 272,474 parameters.

    Parameters
    ----------
    classes : int, default=10
        Number of classes.
    channels : int, default=3
        Colour channels of the images.

    Returns
    -------
    nn.Sequential
        Images (B, channels, H, W) to logits (B, classes), randomly initialised.

    References
    ----------
    .. [1] He et al., CVPR 2016, section 4.2, with projections where the width changes (option B).

    Examples
    --------
    >>> sum(p.numel() for p in resnet20().parameters())
    272474
    """
    from torchvision.models.resnet import BasicBlock  # slow to import

    width = 16
    stem = (nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks = list[nn.Module]()
    for planes, stride in [(16, 1)] * 3 + [(32, 2)] + [(32, 1)] * 2 + [(64, 2)] + [(64, 1)] * 2:
        shortcut = None
        if stride > 1:
            project = nn.Conv2d(width, planes, 1, stride, bias=False)
            shortcut = nn.Sequential(project, nn.BatchNorm2d(planes))
        blocks.append(BasicBlock(width, planes, stride, shortcut))
        width = planes
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    network = nn.Sequential(*stem, *blocks, *head)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class Normalize(nn.Module):
    r"""Standardise pixels inside the network: :math:`(x - \mu) / s` for every channel.

    Attacks and noise are measured in pixels of [0, 1]; a network that was trained on normalised
    images becomes one of pixels by ``nn.Sequential(Normalize(mean, std), network)``.

    Parameters
    ----------
    mean, std : sequence of float or Tensor
        One value a channel.

    Examples
    --------
    >>> Normalize([0.5], [0.25])(torch.tensor([[[[0.75]]]]))
    tensor([[[[1.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (B, C, H, W) to standardised ones."""
        return (x - self.mean) / self.std


def to_device(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to a device in the memory layout that convolutions are fastest in."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
