"""The networks that the benchmark works on: the shipped ones, and a ResNet-18 made for it."""

import torch
from torch import nn

from rvlib.data import load_cifar10
from rvlib.models import load_weights, resnet18, save_weights
from rvlib.models.weights import to_device
from rvlib.objectives import gaussian
from rvlib.recipes import BATCH_SIZE, LEARNING_RATE, SIGMA
from rvlib.stages.run import Run
from rvlib.training import fit

TRAINED_ON = 4096


def short_resnet18(run: Run) -> nn.Module:
    """Train a ResNet-18 with noise for as long as it takes to answer better than chance.

    Parameters
    ----------
    run : Run
        Where it is kept, so that it is trained once, and the device.

    Returns
    -------
    nn.Module
        In evaluation mode, in the fast memory layout.
    """
    path = run.out / "bench" / "resnet18.safetensors"
    recipe = {"images": TRAINED_ON, "sigma": SIGMA, "batch_size": BATCH_SIZE, "lr": LEARNING_RATE}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = to_device(resnet18(), run.place.device)
    if not path.exists():
        images, labels = (tensor[:TRAINED_ON] for tensor in load_cifar10("train"))
        fit(
            network,
            gaussian(SIGMA),
            (images, labels),
            epochs=1,
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            device=run.place.device,
            log=run.log,
        )
        save_weights(network, path, {"recipe": recipe})
    load_weights(network, path, recipe)
    return network.eval()
