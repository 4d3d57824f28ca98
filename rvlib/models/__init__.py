"""The networks, from pixels to logits, and their weights on disk."""

from rvlib.models.lenet import LeNet as LeNet
from rvlib.models.precision import Bfloat16 as Bfloat16
from rvlib.models.resnet import resnet18 as resnet18
from rvlib.models.weights import load_weights as load_weights
from rvlib.models.weights import save_weights as save_weights

NETWORKS = {"lenet": LeNet, "resnet18": resnet18}
"""Constructors by the name that recipes and records use."""
