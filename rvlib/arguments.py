"""What the words of a command line name: a ball, a data set, a network; and what it will take."""

import importlib
import inspect
import os
import sys
import traceback
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks import input_gradient
from rvlib.attacks.autoattack import VERSIONS
from rvlib.checks import check_labels, check_network
from rvlib.data import DATASETS, image_folder, load
from rvlib.evaluation import floats
from rvlib.experiments import find_recipe
from rvlib.judge import is_random
from rvlib.modern import PROFILE, TODAY
from rvlib.pipeline import Run
from rvlib.pipeline.machine import seconds
from rvlib.smoothing import stream
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel

WORST = {"apgd-ce": 300, "apgd-t": 2700, "fab-t": 3600, "square": 5000}
"""Passes per image, forwards and backwards, where it withstands all of an attack."""
WORST_RANDOM = 9000
"""Of ``rand``: two times 101 steps of 20 answers."""
TIMED = 64
"""Images of a timed pass."""


def parse_threat(text: str) -> ThreatModel:
    """Read a ball: ``linf:8/255``, ``l2:0.5``, ``pixel-l2:0.045``.

    Examples
    --------
    >>> parse_threat("linf:8/255")
    Linf(eps=0.03137254901960784)
    """
    balls: dict[str, Any] = {"linf": Linf, "l2": L2, "pixel-l2": PixelL2}
    norm, _, radius = text.partition(":")
    try:
        ball, eps = balls[norm], float(Fraction(radius))
        if not eps > 0:
            raise ValueError
    except (KeyError, ValueError, ArithmeticError):
        raise ValueError(
            f"{text!r} is no ball: write linf:8/255, l2:0.5 or pixel-l2:0.045"
        ) from None
    return ball(eps)


def find_data(text: str, model: nn.Module, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Load ``cifar10``, ``cifar10:heldout`` (default: ``test``), or a folder of images by class.

    Images of a folder come in an order drawn once, so that the first ones are of all classes; they
    are scaled to `size` if it is given, and have one channel where the network's first convolution
    takes one.
    """
    name, _, split = text.partition(":")
    if name in DATASETS:
        if size is not None:
            raise ValueError("--size is for folders of images: data sets have theirs")
        return load(name, split or "test")
    if Path(text).is_dir():
        first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
        grey = first is not None and first.in_channels == 1
        images, labels, _ = image_folder(text, size=size, channels=1 if grey else 3)
        order = torch.randperm(len(images), generator=stream("cpu", 0, "order of a folder"))
        return images[order], labels[order]
    raise ValueError(
        f"{text!r} is neither a data set ({', '.join(DATASETS)}) nor a folder of images"
    )


def find_network(text: str, profile: str | None = None) -> nn.Module:
    """Load a network by name, or call ``module:function``, which returns your own.

    By name it is the shipped one, or what ``rvlib train`` has made in `profile`.
    """
    if ":" not in text:
        find_recipe(text)
        run = Run.open(profile or "lesson")
        if text in TODAY and profile is None:
            run = replace(run, models=run.published.parent / PROFILE.name / "models")
        if not run.weights(text).with_suffix(".json").exists():
            of = f"--profile {PROFILE.name if text in TODAY else 'full'}"
            told = f"{run.models} has no {text}: train it (rvlib train {of} {text})"
            raise ValueError(f"{told} and give {of} here, too")
        return run.model(text)
    if profile:
        raise ValueError(f"--profile is for the report's networks, not for {text}")
    module, _, function = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as python -m does: a file beside you is importable
    try:
        make = getattr(importlib.import_module(module), function)
        inspect.signature(make).bind()
    except (ImportError, AttributeError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"{text!r} cannot be called ({error}): write module:function, without arguments"
        ) from error
    except Exception as error:
        raise _placed(text, error) from error
    try:
        model = make()
    except Exception as error:
        raise _placed(text, error) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{text} returned {type(model).__name__}, not a torch.nn.Module")
    return model.eval()


def _placed(text: str, error: Exception) -> ValueError:
    """Say in one line what failed in the user's own code, and where."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return ValueError(f"{text}: {type(error).__name__}: {error} ({place})")


def find_shard(text: str | None) -> tuple[int, int]:
    """Read ``3/8``; by default this process's part under torchrun, in a SLURM array, or in both.

    Examples
    --------
    >>> find_shard("3/8")
    (3, 8)
    """
    if text is not None:
        k, slash, n = text.partition("/")
        if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
            raise ValueError(f"--shard {text}: write K/N with 1 <= K <= N, as 3/8")
        return int(k), int(n)
    index, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        array = "SLURM_ARRAY_TASK_"
        task, first, count = (_number(array + name) for name in ("ID", "MIN", "COUNT"))
        index = task - first
        if index >= count:
            raise ValueError("the numbers of the array's tasks have gaps: give --shard K/N")
    if "RANK" in os.environ:
        world = _number("WORLD_SIZE")
        index, count = index * world + _number("RANK"), count * world
    return index + 1, count


def _number(variable: str) -> int:
    """Read a number that a launcher has set."""
    try:
        return int(os.environ[variable])
    except (KeyError, ValueError):
        raise ValueError(f"{variable} is not set to a number: give --shard K/N") from None


def seconds_at_most(model: nn.Module, data: tuple[Tensor, Tensor], version: str) -> float:
    """Seconds of an ensemble that no image falls to, from the time of a few passes."""
    x = floats(data[0][:TIMED], model)
    y = data[1][:TIMED].to(x.device)
    model = check_network(model, x, check_labels(y, x))
    step = partial(input_gradient, model, x, y)  # a pass forward and one backward
    one_pass = seconds(step, x.device) / 2 / len(x)
    if version == "rand" or is_random(model, x):
        return one_pass * len(data[0]) * WORST_RANDOM
    return one_pass * len(data[0]) * sum(WORST[name] for name in VERSIONS[version])
