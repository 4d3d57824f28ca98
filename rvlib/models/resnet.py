"""ResNet-18 with the stem for 32 x 32 pixels."""

from torch import nn
from torchvision.models import resnet18 as imagenet_resnet18


def resnet18(classes: int = 10) -> nn.Module:
    """Make torchvision's ResNet-18 with a 3 x 3 stem of stride 1 and no max-pooling.

    The stem for 224 x 224 pixels would shrink a CIFAR image to 8 x 8 before the first block.

    Parameters
    ----------
    classes : int, default=10
        Number of logits.

    Returns
    -------
    nn.Module
        Maps pixels of shape (B, 3, 32, 32) in [0, 1] to logits of shape (B, classes).

    References
    ----------
    .. [1] He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, sections 3.3
       and 4.2 (the CIFAR stem).  arXiv:1512.03385.

    Examples
    --------
    >>> sum(p.numel() for p in resnet18().parameters())
    11173962
    """
    network = imagenet_resnet18(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
