"""Explorers of notebooks 04 to 06, on a network whose smoothed answers are known by heart."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from rvlib.course.explorer import MOST_FRAMES
from rvlib.course.explorers import certification, explore_certification, explore_results
from rvlib.course.explorers import explore_smoothing
from rvlib.course.smoothing_lessons import (
    ORDERS,
    Outcome,
    attack_certified,
    is_share,
    ladder,
    sanity_table,
)
from rvlib.data import CLASSES
from rvlib.evaluation import certified_accuracy
from rvlib.profiles import DEFENCES, PROFILES
from rvlib.recipes import ALPHA, SIGMA, SIGMAS, smoothed_name
from rvlib.report.curves import radii
from rvlib.report.reference import REPORT_TABLE1, TITLES
from rvlib.report.tables import table1
from rvlib.rows import Rows, rows_path
from rvlib.smoothing import (
    ABSTAIN,
    largest_radius,
    lower_confidence_bound,
    sample_under_noise,
    vote,
)
from rvlib.stages.measure import Place
from rvlib.stages.run import SMOOTHED_ATTACKS, Run, table1_cells

MARGINS = (0.0, 0.02, 0.1, 0.3, -0.1)
"""How far each image lies on deer's side of the plane that parts deer from frog."""
DEER, FROG = CLASSES.index("deer"), CLASSES.index("frog")
LABELS = (DEER, DEER, DEER, DEER, DEER)
NS = (100, 1000)
COUNT = len(MARGINS)


class HalfSpace(Run):
    """A run whose networks answer deer where the first number of the image exceeds one half."""

    def model(self, name, seed=0):
        linear = nn.Linear(3072, 10)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.fill_(-100)
            # Steep, so that probabilities under noise are nearly votes.
            linear.weight[DEER, 0], linear.bias[DEER], linear.bias[FROG] = 50, -25, 0
        return nn.Sequential(nn.Flatten(), linear)

    def images(self, count, split="heldout"):
        x = torch.full((COUNT, 3, 32, 32), 0.5)
        x[:, 0, 0, 0] += torch.tensor(MARGINS)
        return x[:count], torch.tensor(LABELS)[:count]

    def certificates(self, sigma):
        x, _ = self.images(COUNT)
        lines = [
            {"index": str(i), "label": str(label), "selection": texts[0]}
            | {f"counts_{n}": text for n, text in zip(NS, texts[1:], strict=True)}
            for i, (label, *texts) in enumerate(
                zip(
                    LABELS,
                    *(
                        [" ".join(map(str, row)) for row in counts.tolist()]
                        for counts in (
                            sample_under_noise(self.model(""), x, sigma, 100, purpose="selection"),
                            *(sample_under_noise(self.model(""), x, sigma, n) for n in NS),
                        )
                    ),
                    strict=True,
                )
            )
        ]
        return Rows({"identity": {"sigma": sigma}}, lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    profile = replace(PROFILES["smoke"], heldout=COUNT, certified=COUNT, ns=NS, test=0)
    return HalfSpace(profile, Place(folder, folder / "rows", torch.device("cpu")), folder)


def said(explorer, **values):
    """Draw one frame and hand out its sentence."""
    positions = {
        knob.name: (knob.values.index(values[knob.name]) if knob.name in values else knob.start)
        for knob in explorer._knobs
    }
    return explorer._frame(list(positions.values()))


def number(pattern, text):
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return float(found[1].replace(",", ""))
