"""What the head of a rows file says at least, as its place tells."""

import json

from rvlib.data import CIFAR10_DIGEST
from rvlib.recipes import gaussian_name
from rvlib.stages.measurements import NOISE


def head_of(path, weights=None, **more):
    """Write the first line of ``rows/split/defence/seed-0/what.csv``."""
    split, defence, seed = path.parts[-4:-1]
    sigma = NOISE.get(defence)
    identity = {
        "model": defence if sigma is None else gaussian_name(sigma),
        "training_seed": int(seed.removeprefix("seed-")),
        "sigma": sigma,
        "weights": weights,
        "data": CIFAR10_DIGEST,
        "split": split,
        "seed": 0,
    }
    return "# " + json.dumps({"identity": identity | more, "provenance": {"commit": "abc"}})
