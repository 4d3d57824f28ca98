"""rvlib.distributed: two processes train the network that one does, and survive a kill.

The ranks are forked from the tests' own process, which has PyTorch, and started as torchrun starts
them, by its own launcher and with its restarts.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from rvlib import cli, distributed, pipeline, training
from rvlib import experiments as ex
from rvlib.attacks import pgd, smoothed_pgd
from rvlib.data import load
from rvlib.distributed import process_group, whole_batch
from rvlib.models import lenet
from rvlib.objectives import adversarial, gaussian, standard
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.training import crop_and_flip, fit
from tests.networks import seeded

COUNT, BATCH, EPOCHS = 297, 32, 2
"""Images of CIFAR-10: 20 steps; two ranks share the last batch of an epoch, 9 images, 4 to 5."""


@functools.cache
def images():
    return tuple(part[:COUNT] for part in load("cifar10", "train"))


def normalised():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1800, 10), nn.BatchNorm1d(10)),
    )


def small_lenet():
    torch.manual_seed(0)
    return lenet(10, 3, 32)


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (small_lenet, standard, {}),
    "gaussian": (small_lenet, gaussian(0.25), {}),
    "adversarial": (small_lenet, adversarial(partial(pgd, threat=Linf(8 / 255), steps=3)), {}),
    "normalised": (normalised, gaussian(0.25), {"augment": crop_and_flip, "average": 0.9}),
}


def train(name, **options):
    """Train a case; its history and weights, and (images, sum of the losses) of each step."""
    make, objective, more = CASES[name]
    steps = []

    def noted(model, x, y, generator):
        loss = objective(model, x, y, generator)
        steps.append((len(x), len(x) * loss.value.item()))
        return loss

    def monitor(model):
        first = next(iter(model.state_dict().values()))
        return {"natural": abs(first.sum().item()) % 1}

    model = make()
    if distributed.rank():
        nn.init.zeros_(next(model.parameters()))  # ranks begin with rank 0's weights
    found = fit(
        *(model, noted, images()),
        monitor=monitor,
        **{"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.02, "seed": 3} | more | options,
    )
    return {"steps": steps, "state": model.state_dict(), **vars(found)}


def curve(*ranks):
    """Mean loss of each step, from what each rank noted."""
    return [sum(s for _, s in step) / sum(n for n, _ in step) for step in zip(*ranks, strict=True)]


# --- what runs under torchrun ---------------------------------------------------------------------


def work(folder):
    with process_group(torch.device("cpu")):
        own = folder / f"printed-{distributed.rank()}.txt"
        with own.open("a") as printed, contextlib.redirect_stdout(printed):
            rvlib_train()
        found = {name: train(name) for name in CASES}
        train("standard", epochs=1, checkpoint=folder / "half.pt")
        torch.save(found, folder / f"{distributed.rank()}.pt")


def rvlib_train():
    """``rvlib train`` in small; in its first life rank 1 is killed at step 13."""
    in_small()
    seen, make = [], ex.Recipe.make_objective

    def make_mortal(recipe):
        def mortal(model, x, y, generator):
            seen.append(len(x))
            first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
            if first_life and os.environ["RANK"] == "1" and len(seen) == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            return make(recipe)(model, x, y, generator)

        return mortal

    setattr(ex.Recipe, "make_objective", make_mortal)  # noqa: B010
    training.EVERY = 0  # a checkpoint after each step
    assert cli.main(["train", "standard", "--training-seed", "0", "--device", "cpu"]) == 0
    print(f"took {len(seen)} steps")


def in_small(patch=setattr):
    short = dataclasses.replace(ex.RECIPES["standard"], epochs=EPOCHS)
    patch(ex, "RECIPES", {"standard": short})
    patch(ex, "GRID_RECIPES", {})
    patch(ex, "SEEDS", {})
    few = {short.selection: 8}  # attacked after each epoch
    patch(pipeline.run, "load", lambda name, split: [part[: few.get(split)] for part in images()])


ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    # Else restarted ranks may read the addresses of those before (pytorch/pytorch#135712).
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def launch(folder):
    """Do the work in two processes, again when one is killed: what ``torchrun --standalone`` does.

    Torchrun itself would start Python and import PyTorch five times, most of the time of this file.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ |= ENVIRONMENT | {"RVLIB_BUILD": str(folder)}
    where: Any = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "two"}
    config = LaunchConfig(1, 1, 2, start_method="fork", max_restarts=1, **where)
    elastic_launch(config, work)(folder)


def torchrun(folder):
    """Fork a process that launches the ranks; its exit status."""
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # imports half of PyTorch, here for all ranks
    images()
    launcher = multiprocessing.get_context("fork").Process(target=launch, args=(folder,))
    with warnings.catch_warnings():  # Python 3.12 warns where there are threads, as pytest-xdist's
        warnings.simplefilter("ignore", DeprecationWarning)
        launcher.start()
    launcher.join()
    return launcher.exitcode


# --- tests ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks found, where rank 0 left a checkpoint, and what each printed."""
    folder = tmp_path_factory.mktemp("two")
    assert torchrun(folder) == 0
    printed = [(folder / f"printed-{rank}.txt").read_text() for rank in (0, 1)]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)], folder, printed


@pytest.mark.parametrize("name", ["standard", "gaussian", "normalised"])
def test_two_ranks_train_what_one_process_does(two, name):
    ranks, alone = [found[name] for found in two[0]], train(name)
    passes = 2 * EPOCHS if "average" in CASES[name][2] else EPOCHS  # the statistics take one, too
    for rank, last in zip(ranks, (4, 5), strict=True):
        assert [n for n, _ in rank["steps"]] == ([16] * 9 + [last]) * passes
    one, both = curve(alone["steps"]), curve(*(rank["steps"] for rank in ranks))
    assert both == pytest.approx(one, abs=1e-5)
    for key, value in alone["state"].items():
        assert torch.allclose(ranks[0]["state"][key], value, atol=2e-5), key
        assert torch.equal(ranks[0]["state"][key], ranks[1]["state"][key])
    for entries in zip(alone["history"], ranks[0]["history"], ranks[1]["history"], strict=True):
        assert entries[1] == entries[2]
        assert entries[1] == pytest.approx(entries[0], abs=1e-3)


def test_adversarial_training_differs_by_rounding(two):
    """The sign of a gradient near zero turns with the last bit, which moves a pixel by a step."""
    ranks, alone = [found["adversarial"] for found in two[0]], train("adversarial")
    for entry, expected in zip(ranks[0]["history"], alone["history"], strict=True):
        assert abs(entry["accuracy"] - expected["accuracy"]) * COUNT <= 2
        assert entry["loss"] == pytest.approx(expected["loss"], abs=1e-3)
    # The very first step has no history of rounding.
    assert curve(*(r["steps"] for r in ranks))[0] == pytest.approx(curve(alone["steps"])[0], 1e-6)


def test_one_process_continues_what_two_began(two):
    resumed = train("standard", checkpoint=two[1] / "half.pt")
    assert len(resumed["steps"]) == 10
    expected = train("standard")
    for key, value in expected["state"].items():
        assert torch.allclose(resumed["state"][key], value, atol=2e-5)


def test_a_killed_rank_is_restarted_and_the_training_goes_on(two, tmp_path, monkeypatch):
    _, folder, printed = two
    assert all("took 8 steps" in text for text in printed)
    for epoch in (1, 2):
        assert "".join(printed).count(f"standard seed 0  epoch {epoch}/2") == 1
    assert not list(folder.glob("*/checkpoints/**/*.pt"))
    (record,) = folder.rglob("seed-0.json")
    assert json.loads(record.read_text())["ranks"] == 2
    in_small(monkeypatch.setattr)
    monkeypatch.setenv("RVLIB_BUILD", str(folder))
    together = pipeline.Run.open("full", "cpu").model("standard").state_dict()
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    run = dataclasses.replace(pipeline.Run.open("full", "cpu"), log=lambda line: None)
    for key, value in run.model("standard").state_dict().items():
        assert torch.allclose(together[key], value, atol=2e-5)


def ranks(monkeypatch, rank, world):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world", lambda: world)


def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


def smoothed(model, x, y, generator):
    return smoothed_pgd(model, x, y, L2(0.5), sigma=0.25, draws=3, steps=1, generator=generator)


DRAWS = {
    "in place": lambda x, g: torch.empty_like(x).normal_(generator=g),
    "shape": lambda x, g: torch.rand(x.shape, generator=g),
    "integers": lambda x, g: torch.randint(0, 9, (len(x), 1), generator=g),
    "words": lambda x, g: torch.randint(0, 9, x.shape, generator=g),
    "linf": lambda x, g: Linf(0.1).sample(x, g),
    "l2": lambda x, g: L2(0.5).sample(x, g),
    "pixel-l2": lambda x, g: PixelL2(0.1).sample(x, g),
    "augmentation": lambda x, g: crop_and_flip(x, g),
    "attack on the vote": lambda x, g: smoothed(flat(), x, torch.zeros(len(x)).long(), g),
    "like": lambda x, g: x + torch.randn_like(x, generator=g),
    "size": lambda x, g: torch.rand(size=(len(x), 3), generator=g),
    "high": lambda x, g: torch.randint(high=2**20, size=[len(x)], generator=g).float(),
    "normal": lambda x, g: torch.normal(0.0, 1.0, size=(len(x), 2), generator=g),
}


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_noise_is_addressed_by_the_place_in_the_batch(monkeypatch, draw, world):
    """Together the ranks draw what one process draws, and leave the generator where it does."""
    x = torch.linspace(0, 1, 336).view(7, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    alone = seeded()
    expected = draw(x, alone)
    parts = []
    for rank in range(world):
        ranks(monkeypatch, rank, world)
        generator = seeded()
        with whole_batch(len(x), generator) as part:
            parts.append(draw(x[part], generator))
        assert torch.equal(generator.get_state(), alone.get_state())
    assert {len(part) for part in parts} <= {7 // world, 7 // world + 1}
    assert torch.allclose(torch.cat(parts), expected, atol=1e-5)


def test_what_is_one_for_the_batch_and_what_others_draw_is_left_alone(monkeypatch):
    ranks(monkeypatch, 1, 2)
    generator, other = seeded(), seeded()
    with whole_batch(6, generator):
        coin = torch.randint(0, 2**30, (), generator=generator)
        foreign = torch.rand(3, generator=other)
    assert coin == torch.randint(0, 2**30, (), generator=seeded())
    assert torch.equal(foreign, torch.rand(3, generator=seeded()))


def test_a_batch_of_fewer_images_than_ranks_is_refused(monkeypatch):
    monkeypatch.setattr(training, "world", lambda: 4)
    ranks(monkeypatch, 1, 4)
    with pytest.raises(ValueError, match="3 images for 4 ranks"), whole_batch(3, seeded()):
        pass
    train = torch.zeros(6, 3, 4, 4), torch.zeros(6).long()
    with pytest.raises(ValueError, match="last batch would hold 2 images for 4 ranks: choose"):
        fit(flat(), standard, train, epochs=1, batch_size=4)


def test_ranks_that_do_not_meet_are_told_what_to_set(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="start them with torchrun; set GLOO_SOCKET_IFNAME"):
        with process_group(torch.device("cpu")):
            pass


@pytest.mark.parametrize("options", [{"weight": 5.0}, {"bias": 2.0}, {}])
def test_a_batch_is_normalised_with_weight_or_bias_alone(monkeypatch, options):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    x = torch.randn(6, 2, generator=seeded())
    given: Any = {name: torch.full((2,), value) for name, value in options.items()}
    expected = nn.functional.batch_norm(x, None, None, training=True, **given)
    with distributed._WholeBatch(6, slice(0, 6), torch.Generator()):
        found = nn.functional.batch_norm(x, None, None, training=True, **given)
    assert torch.allclose(found, expected, atol=1e-5)


def test_ranks_that_fall_out_of_step_are_stopped(monkeypatch):
    distributed.check_in_step(seeded())
    monkeypatch.setattr(distributed, "agreed", lambda state: seeded(1).get_state())
    with pytest.raises(ValueError, match="have drawn different numbers"):
        distributed.check_in_step(seeded())


VALUES = torch.full((3, 4), 0.5)


@pytest.mark.parametrize(
    ("draw", "given", "words"),
    [
        (torch.randperm, (3,), "for one rank's images: use"),
        (torch.multinomial, (torch.ones(9), 3), "for one rank's images: use"),
        (torch.normal, (VALUES,), "draw uniform numbers"),
        (torch.bernoulli, (VALUES,), "draw uniform numbers"),
    ],
)
def test_an_order_of_some_images_and_draws_from_their_values_are_refused(
    monkeypatch, draw, given, words
):
    ranks(monkeypatch, 1, 2)
    with whole_batch(6, generator := seeded()), pytest.raises(ValueError, match=words):
        draw(*given, generator=generator)
    assert VALUES.eq(0.5).all()
