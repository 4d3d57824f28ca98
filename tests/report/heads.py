"""What the head of a rows file says at least, as its place tells."""

import json

from rvlib.data import CIFAR10_DIGEST
from rvlib.stages.measurements import Measurement, identity


def head_of(profile, path, weights=None, **more):
    """Write the first line of ``rows/split/defence/seed-0/what.csv``."""
    split, defence, seed = path.parts[-4:-1]
    measured = Measurement(split, defence, int(seed.removeprefix("seed-")), path.stem)
    told = identity(profile, measured) | {
        "weights": weights,
        "data": CIFAR10_DIGEST,
        "split": split,
        "seed": 0,
        "unit": 4,
    }
    return "# " + json.dumps({"identity": told | more, "provenance": {"commit": "abc"}})
