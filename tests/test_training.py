"""rvlib.training: the loop learns, counts right, and continues where it was killed."""

import copy
import itertools
import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW, lr_scheduler
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from rvlib.attacks import pgd
from rvlib.data import to_float
from rvlib.models import WeightsError
from rvlib.objectives import Loss, adversarial, gaussian, n_fgsm, nuat, standard, trades
from rvlib.threat_models import Linf
from rvlib.training import crop_and_flip, fit
from tests.networks import Wrapped, seeded

EPOCHS = 4


def random_start(model, x, y, generator):
    return pgd(model, x, y, Linf(0.1), steps=1, generator=generator)


OBJECTIVES = {
    "standard": standard,
    "gaussian": gaussian(0.2),
    "adversarial": adversarial(random_start),
}

# Random bytes with random labels, to be learnt by heart; the last batch of 8 has 6.
IMAGES = torch.randint(0, 256, (22, 3, 4, 4), generator=seeded(), dtype=torch.uint8)
TRAIN = IMAGES, torch.randint(0, 3, (22,), generator=seeded(1))


def net(dropout=0.3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(dropout)),
            *(nn.Flatten(), nn.Linear(64, 3)),
        )


def flat():
    """One layer, no normalisation: what happens to it can be computed by hand."""
    return nn.Sequential(nn.Flatten(), net()[-1].__class__(48, 3))


def quietly(model, objective=standard, train=TRAIN, **options):
    return fit(
        model, objective, train, **({"epochs": EPOCHS, "batch_size": 8, "lr": 0.1} | options)
    )


def noting(note, objective=standard):
    """Tell what an objective is given: network, images, labels."""

    def told(model, x, y, generator):
        note(model, x, y)
        return objective(model, x, y, generator)

    return told


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same(a, b):
    return same_state(a.state_dict(), b.state_dict())


def monitor(model):
    """A figure that rises and falls with the weights."""
    return {"figure": abs(next(model.parameters()).sum().item()) % 1}


# ---- learning -------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_it_learns_by_heart(objective):
    history = quietly(net(0.0), objective, epochs=30).history
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.8 > history[0]["accuracy"]


def test_steps_are_those_of_sgd_with_momentum_and_weight_decay():
    """v <- m v + g + d w, w <- w - lr v, here with all images in one batch."""
    model, x, y = flat(), to_float(IMAGES), TRAIN[1]
    w = [p.detach().clone().requires_grad_(True) for p in model.parameters()]
    v = [torch.zeros_like(p) for p in w]
    for _ in range(3):
        grads = torch.autograd.grad(F.cross_entropy(F.linear(x.flatten(1), *w), y), w)
        v = [0.7 * a + g + 0.05 * p.detach() for a, g, p in zip(v, grads, w, strict=True)]
        w = [(p - 0.3 * a).detach().requires_grad_(True) for p, a in zip(w, v, strict=True)]
    options = {"batch_size": 22, "lr": 0.3, "momentum": 0.7, "weight_decay": 0.05}
    quietly(model, epochs=3, **options)
    for got, expected in zip(model.parameters(), w, strict=True):
        assert torch.allclose(got, expected, atol=1e-6)


def test_history_is_the_mean_over_images_not_over_batches():
    model = flat()
    logits = model(to_float(IMAGES)).detach()
    entry = quietly(model, epochs=1, lr=0.0).history[0]
    assert entry["loss"] == pytest.approx(F.cross_entropy(logits, TRAIN[1]).item(), rel=1e-6)
    assert entry["accuracy"] == (logits.argmax(1) == TRAIN[1]).double().mean().item()


def test_each_epoch_passes_each_image_once_in_another_order():
    """Images carry their number in every pixel."""
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 2, 2)
    batches = []

    def look(model, x, y):
        assert model.training
        assert x.dtype == torch.float32
        numbers = (255 * x[:, 0, 0, 0]).round().long()
        assert torch.equal(y, numbers % 3)
        batches.append(numbers.tolist())
        model.train(len(batches) % 3 > 0)  # a careless objective, at the end of an epoch

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    quietly(model, noting(look), (images, torch.arange(10) % 3), epochs=3, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    orders = [[*batches[i], *batches[i + 1], *batches[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("lr", [0.1, np.float32(0.1)])
def test_a_loader_or_float_images_train_as_bytes_do(lr):
    x, y = to_float(IMAGES), TRAIN[1]
    first = flat()
    models = [copy.deepcopy(first) for _ in range(3)]
    trains: list[Any] = [TRAIN, (x, y), DataLoader(TensorDataset(x, y), batch_size=22)]
    for model, train in zip(models, trains, strict=True):
        quietly(model, train=train, batch_size=22, lr=lr)
    assert same(models[0], models[1])
    for a, b in zip(models[0].parameters(), models[2].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)  # one batch, in another order


def test_a_shuffling_loader_is_repeated_and_resumed(tmp_path):
    def train(**options):
        model = net()
        loader: Any = DataLoader(TensorDataset(to_float(IMAGES), TRAIN[1]), 8, shuffle=True)
        torch.manual_seed(len(options))
        return quietly(model, train=loader, **options).history, model

    history, unbroken = train()
    assert train()[0] == history
    assert history != train(seed=1)[0]
    train(checkpoint=tmp_path / "c", epochs=2)
    resumed = train(checkpoint=tmp_path / "c")
    assert resumed[0] == history
    assert same(resumed[1], unbroken)


def test_a_schedule_is_stepped_after_every_batch():
    rates, steps = [], []

    def schedule(optimizer, n):
        steps.append(n)
        return lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    made: list[Any] = []

    def optimizer(parameters):
        made.append(SGD(parameters, lr=0.6))
        return made[0]

    spy = noting(lambda *given: rates.append(made[0].param_groups[0]["lr"]))
    quietly(net(), spy, epochs=2, optimizer=optimizer, schedule=schedule)
    assert steps == [6]
    assert rates == pytest.approx([0.6 / (1 + i) for i in range(6)])


def test_augmentation_is_what_is_trained_on():
    seen = []

    def black(x, generator):
        assert torch.rand((), generator=generator) < 1
        return torch.zeros_like(x)

    quietly(net(), noting(lambda model, x, y: seen.append(x)), augment=black, epochs=1)
    assert len(seen) == 3
    assert not any(x.any() for x in seen)


def test_autocast_is_on_for_the_objective_and_off_for_the_rest():
    kinds = set()

    def spy(model, x, y, generator):
        loss = standard(model, x, y, generator)
        kinds.add((model(x).dtype, loss.logits.dtype, loss.value.dtype))
        return loss

    history = quietly(net(0.0), spy, autocast=torch.bfloat16, epochs=20).history
    assert kinds == {(torch.bfloat16, torch.float32, torch.float32)}
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert not torch.is_autocast_enabled("cpu")


# ---- randomness -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_seed_decides_all_and_global_randomness_is_left_alone(objective):
    one, other, third = net(), net(), net()
    first = quietly(one, objective, seed=5)
    torch.manual_seed(99)  # dropout draws from the global state
    before = torch.get_rng_state()
    second = quietly(other, objective, seed=np.int64(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, other)
    assert first.history == second.history
    quietly(third, objective, seed=6)
    assert not same(one, third)


def test_order_does_not_depend_on_the_objective():
    """Two recipes of one seed see the same batches: their difference is the objective's."""
    orders: list[list[Any]] = []
    for objective in OBJECTIVES.values():
        orders.append([])
        quietly(net(), noting(lambda model, x, y: orders[-1].append(x), objective), epochs=2)
    for other in orders[1:]:
        assert all(torch.equal(a, b) for a, b in zip(orders[0], other, strict=True))


# ---- best epoch -----------------------------------------------------------------------------


def scripted(figures, states=None):
    """A monitor that measures what it is told to, and keeps the weights it was shown."""
    figures = iter([-1.0, *figures])  # tried once before the first epoch

    def monitor(model):
        if states is not None:
            states.append(copy.deepcopy(model.state_dict()))
        return {"figure": next(figures), "other": 0.0}

    return monitor


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([0.1, 0.5, 0.3, 0.4], 1),
        ([0.1, 0.2, 0.3, 0.4], 3),
        ([0.4, 0.3, 0.2, 0.1], 0),
        ([0.1, 0.5, 0.5, 0.5], 1),  # the first of equals
        ([0.0, 0.0, 0.0, 0.0], 0),
        ([np.float32(0.25), np.float64(0.5), 0.5, 0], 1),
        ([-2.5, -1.5, -2.0, -2.1], 1),  # minus a loss, say: every epoch is trained
    ],
)
def test_best_epoch_is_the_highest_and_its_weights_are_kept(figures, best, tmp_path):
    states: list[Any] = []
    model = net()
    options = {"select": "figure", "checkpoint": tmp_path / "c"}
    result = quietly(model, monitor=scripted(figures, states), **options)
    assert result.best_epoch == best
    assert [entry["figure"] for entry in result.history] == figures
    assert same_state(result.best_state, states[1 + best])
    assert same_state(model.state_dict(), states[-1])  # the network itself holds the last
    assert not same_state(states[1], states[-1])


def test_without_a_monitor_the_last_epoch_is_best():
    result = quietly(net())
    assert (len(result.history), result.best_epoch, result.best_state) == (EPOCHS, EPOCHS - 1, {})


def test_one_line_an_epoch(capsys):
    lines: list[str] = []
    quietly(net(), epochs=2, log=lines.append, monitor=lambda model: {"natural": 0.5})
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all(line.endswith("natural 50.0%") for line in lines)
    assert capsys.readouterr() == ("", "")


class Frozen(nn.BatchNorm2d):
    """It keeps its statistics, as in fine-tuning."""

    def train(self, mode=True):
        return super().train(False)


def test_statistics_that_are_not_trained_are_not_estimated():
    norm = Frozen(3)
    for buffer in norm.buffers():
        buffer.fill_(3)
    monitor = scripted([0.5] * 5)
    model = nn.Sequential(norm, flat())
    best = quietly(model, average=0.5, monitor=monitor, select="figure", epochs=2).best_state
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert best[f"0.{name}"].eq(3).all()


class Versioned(nn.Flatten):
    """A module that keeps more than tensors."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


def test_a_network_may_keep_more_than_tensors(tmp_path):
    for epochs in (1, 2):
        model = nn.Sequential(Versioned(), nn.Linear(48, 3))
        options = {"epochs": epochs, "monitor": monitor, "select": "figure"}
        best = quietly(model, checkpoint=tmp_path / "c.pt", **options).best_state
        assert best["0._extra_state"] == {"version": 1}


class Slope:
    """A schedule that holds more than plain numbers."""

    def __init__(self, steps):
        self.times = np.array([0, steps])

    def __call__(self, step):
        return float(np.interp(step, self.times, [1, 0]))


def test_a_checkpoint_that_could_not_be_read_is_refused_before_the_first_step(tmp_path):
    def schedule(optimizer, steps):
        return lr_scheduler.LambdaLR(optimizer, Slope(steps))

    path = tmp_path / "c.pt"
    refused("could not be read again", TypeError, flat(), schedule=schedule, checkpoint=path)
    assert not path.exists()
    quietly(flat(), schedule=schedule)


# ---- averaged weights, collapse, progress, augmentation --------------------------------------


def test_the_average_by_hand():
    seen, kept, model = list[Any](), list[Any](), flat()
    spy = noting(lambda model, x, y: seen.append(copy.deepcopy(model.state_dict())))
    watch = scripted([0.5] * 6, kept)
    quietly(model, spy, average=0.9, average_from=2, monitor=watch, select="figure", epochs=4)
    weights = [*seen[1:], model.state_dict()]  # after each of twelve steps
    assert len(weights) == 12
    average = weights[6]["1.weight"]  # epochs count from 0: the first step of the third
    for after in weights[7:]:
        average = 0.9 * average + 0.1 * after["1.weight"]
    # Monitored: once to try it, twice the weights alone, then the weights and their average.
    assert len(kept) == 7
    assert torch.allclose(kept[-1]["1.weight"], average, atol=1e-6)
    assert torch.equal(kept[-2]["1.weight"], model.state_dict()["1.weight"])


def test_the_best_averaged_weights_are_kept_and_monitored():
    # Tried once; weights; then weights, average, ...
    monitor = scripted([0.9, 0.1, 0.3, 0.2, 0.6, 0.3, 0.5])
    result = quietly(flat(), average=0.5, average_from=1, monitor=monitor, select="figure")
    assert [entry.get("averaged figure") for entry in result.history] == [None, 0.3, 0.6, 0.5]
    assert result.best_epoch == 2


def test_batch_statistics_of_the_average_are_those_of_what_it_sees():
    images = torch.rand(24, 3, 4, 4, generator=seeded())
    model = nn.Sequential(nn.BatchNorm2d(3), flat())
    found, before = list[Any](), list[float]()

    def watch(model):
        found.append(copy.deepcopy(model[0]))
        return {"figure": 0.5}

    def shifted(model, x, y, generator):
        before.append(model[0].running_mean.mean().item())
        return standard(model, x + 2, y, generator)

    data = images, torch.arange(24) % 3
    quietly(model, shifted, data, average=0.5, monitor=watch, select="figure", epochs=2)
    ordinary, norm = found[-2:]
    # Three batches of eight, each image once: the mean of their means is that of all.
    assert torch.allclose(norm.running_mean, (images + 2).mean((0, 2, 3)), atol=1e-5)
    assert norm.momentum == 0.1
    assert not torch.allclose(ordinary.running_mean, norm.running_mean, atol=1e-3)
    # Three batches of training; an attack on the first of the statistics sees those of training.
    assert before[0] == 0
    assert before[3] > before[2] > 0.05


def test_a_collapse_stops_the_training_for_good_and_the_best_is_kept(tmp_path):
    figures = [0.2, 0.5, 0.4, 0.1, 0.6]
    options: dict[str, Any] = {"epochs": 5, "checkpoint": tmp_path / "c"}
    options |= {"monitor": scripted(figures), "select": "figure", "stop_below": 0.5}
    for _ in range(2):
        model = net().eval()
        result = quietly(model, **options)
        assert [entry["figure"] for entry in result.history] == figures[:4]
        assert result.best_epoch == 1
        assert model.training


def test_an_objective_is_given_the_progress_that_it_asks_for():
    seen = list[float]()

    def objective(model, x, y, generator, progress=1.0):
        seen.append(progress)
        return standard(model, x, y, generator)

    quietly(net(), objective, epochs=2)
    assert seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_crops_and_flips_are_windows_of_the_padded_image():
    x = torch.rand(64, 3, 5, 6, generator=seeded())
    found = crop_and_flip(x, seeded(1), padding=2)
    assert found.shape == x.shape
    padded = F.pad(x, [2] * 4)
    windows = list[tuple[int, int, bool]]()
    for image, wide in zip(found, padded, strict=True):
        fits = [
            (i, j, mirrored)
            for i, j, mirrored in itertools.product(range(5), range(5), (False, True))
            if torch.equal(image.flip(2) if mirrored else image, wide[:, i : i + 5, j : j + 6])
        ]
        assert len(fits) == 1
        windows += fits
    assert {i for i, _, _ in windows} == {j for _, j, _ in windows} == set(range(5))
    assert 16 < sum(mirrored for _, _, mirrored in windows) < 48
    assert torch.equal(found, crop_and_flip(x, seeded(1), padding=2))


# ---- checkpoints ----------------------------------------------------------------------------


class Killed(Exception):
    pass


def flip(x, generator):
    back = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(back[:, None, None, None], x.flip(3), x)


SETTINGS: dict[str, dict[str, Any]] = {
    "momentum": {},
    "gaussian": {"objective": OBJECTIVES["gaussian"]},
    "adversarial": {"objective": OBJECTIVES["adversarial"]},
    "augment": {"augment": flip},
    "adamw": {"optimizer": lambda p: AdamW(p, 0.01, amsgrad=True)},
    "one cycle": {"schedule": lambda o, n: lr_scheduler.OneCycleLR(o, 0.2, total_steps=n)},
    "sequence": {
        "schedule": lambda o, n: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [4]
        )
    },
    "bfloat16": {"autocast": torch.bfloat16},
    "NumPy's numbers": {
        "schedule": lambda o, n: lr_scheduler.LambdaLR(
            o, lambda step: np.interp([step], [0, n], [0.1, 1])[0]
        ),
        "optimizer": lambda p: SGD(p, lr=np.float64(0.1)),
    },
    "averaged": {"average": 0.8, "average_from": 1, "objective": OBJECTIVES["gaussian"]},
}


# Killed before an epoch was kept, a training begins anew: what its settings are is no matter.
@pytest.mark.parametrize(
    ("settings", "kill"),
    [*((settings, 3) for settings in SETTINGS.values()), (SETTINGS["averaged"], 1)],
    ids=[*SETTINGS, "begun anew"],
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step:UserWarning")
def test_a_killed_training_ends_like_an_unbroken_one(tmp_path, settings, kill):
    options = {"monitor": monitor, "select": "figure"} | settings
    unbroken, resumed = net(), net()
    expected = quietly(unbroken, **options)
    options["checkpoint"] = tmp_path / "deep" / "checkpoint"
    with pytest.raises(Killed):  # after so many lines of its log
        quietly(net(), log=mock.Mock(side_effect=[None] * (kill - 1) + [Killed]), **options)
    said: list[str] = []
    result = quietly(resumed, log=said.append, **options)
    assert same(resumed, unbroken)  # bit for bit
    assert result.history == expected.history
    assert result.best_epoch == expected.best_epoch
    assert same_state(result.best_state, expected.best_state)
    assert len(said) == EPOCHS - kill + 1  # the epoch whose line failed was not yet kept
    # A finished training is not repeated.
    said.clear()
    quietly(net(), log=said.append, **options)
    assert not said


@pytest.mark.parametrize("every", [0, 1000])
@pytest.mark.parametrize("step", [5, 8, 9])
def test_killed_within_an_epoch_it_ends_like_an_unbroken_one(tmp_path, monkeypatch, every, step):
    monkeypatch.setattr("rvlib.training.EVERY", every)  # at every step; never
    options = {"average": 0.5, "average_from": 1, "monitor": monitor, "select": "figure"}
    unbroken, steps, noisy = net(), itertools.count(1), gaussian(0.2)
    expected = quietly(unbroken, noisy, **options)
    options["checkpoint"] = tmp_path / "c"

    def dying(model, x, y, generator):
        if model.training and model is mortal and next(steps) == step:  # three steps an epoch
            raise Killed
        taken.append(len(x))
        return noisy(model, x, y, generator)

    dying.__qualname__ = noisy.__qualname__  # type: ignore[attr-defined]
    mortal, taken = net(), list[int]()
    with pytest.raises(Killed):
        quietly(mortal, dying, **options)
    mortal, resumed, taken = net(), net(), []
    result = quietly(resumed, dying, **options)
    assert same(resumed, unbroken)
    assert result.history == expected.history
    assert same_state(result.best_state, expected.best_state)
    # Each epoch after the first also estimates statistics, three batches for the average.
    left = EPOCHS * 3 - (step - 1 if every == 0 else (step - 1) // 3 * 3)
    estimated = 3 * (EPOCHS - max((step - 1) // 3, 1))
    assert len(taken) == left + estimated


def test_more_epochs_go_on_and_fewer_are_refused(tmp_path):
    unbroken, resumed, untouched = net(), net(), net()
    quietly(unbroken, epochs=3)
    quietly(net(), epochs=2, checkpoint=tmp_path / "c")
    quietly(resumed, epochs=3, checkpoint=tmp_path / "c")
    assert same(resumed, unbroken)
    with pytest.raises(WeightsError, match="3 epochs, not 2"):
        quietly(untouched, epochs=2, checkpoint=tmp_path / "c")
    assert same(untouched, net())


def test_fewer_epochs_than_begun_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rvlib.training.EVERY", 0)
    steps, path = itertools.count(1), tmp_path / "c"

    def mortal(model, x, y, generator):
        if next(steps) == 5:  # of three an epoch
            raise Killed
        return standard(model, x, y, generator)

    with pytest.raises(Killed):
        quietly(net(), mortal, epochs=3, checkpoint=path)
    with pytest.raises(WeightsError, match="2 epochs, not 1"):
        quietly(net(), mortal, epochs=1, checkpoint=path)
    assert len(quietly(net(), mortal, epochs=2, checkpoint=path).history) == 2


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    unbroken, resumed = net(), net()
    quietly(unbroken)
    calls, write = itertools.count(1), Path.write_bytes

    def full_disk(self, content):
        if next(calls) != 2:
            return write(self, content)
        write(self, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        quietly(net(), checkpoint=tmp_path / "checkpoint")
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    quietly(resumed, checkpoint=tmp_path / "checkpoint")
    assert same(resumed, unbroken)


def test_a_monitor_measures_in_evaluation_mode():
    def monitor(model):
        return {"natural": float(model.training), "mean": model(to_float(IMAGES)).mean().item()}

    model, alone = net(), net()
    history = quietly(model, monitor=monitor, average=0.9).history
    quietly(alone)
    assert all(entry["natural"] == entry["averaged natural"] == 0 for entry in history)
    assert same(model, alone)
    assert model.training


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    quietly(net(), epochs=1, checkpoint=tmp_path / "c")
    with pytest.raises(WeightsError, match=r"another network[^\n]*$"):
        quietly(flat(), checkpoint=tmp_path / "c")


class Trap:
    """Makes a folder when a file that holds it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("thing", [b"", b"text", "pickle", {}, ["identity"], {"identity": {}}, 0.5])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, thing):
    path, sprung = tmp_path / "checkpoint", tmp_path / "sprung"
    if isinstance(thing, bytes):
        path.write_bytes(thing)
    elif thing == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    elif thing == 0.5:
        quietly(net(), epochs=1, checkpoint=path)
        path.write_bytes(path.read_bytes()[:-500])
    else:
        torch.save(thing, path)
    model = net()
    with pytest.raises(WeightsError, match=r"checkpoint cannot be read: delete it[^\n]*$"):
        quietly(model, checkpoint=path)
    assert same(model, net())
    assert not sprung.exists()


def test_what_cannot_be_read_or_written_is_not_called_damaged(tmp_path):
    with pytest.raises(IsADirectoryError):
        quietly(net(), checkpoint=tmp_path)
    (tmp_path / "file").touch()
    refused("file", NotADirectoryError, checkpoint=tmp_path / "file" / "deeper" / "c")


# ---- what makes no training -----------------------------------------------------------------


class Endless(IterableDataset[Any]):
    """Images and labels of which nobody knows how many there are."""

    def __iter__(self):
        return iter([(IMAGES[0], 1)] * 4)


WORDS: Any = [{"x": IMAGES[0], "y": 1}] * 4


def refused(match, kind: type[Exception] = ValueError, model=None, **options):
    steps = []
    spy = noting(lambda model, x, y: steps.append(1))
    with pytest.raises(kind, match=match) as caught:
        quietly(model or net(), **({"objective": spy} | options))
    assert "\n" not in str(caught.value)
    assert not steps  # before the first step


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d])
@pytest.mark.parametrize(("count", "batch_size"), [(17, 8), (3, 1)])
@pytest.mark.parametrize("loader", [False, True])
def test_one_image_alone_cannot_be_normalised(norm, count, batch_size, loader):
    layers = [norm(4), nn.Flatten()] if norm is nn.BatchNorm2d else [nn.Flatten(), norm(4)]
    model = nn.Sequential(nn.Conv2d(3, 4, 4), *layers, nn.Linear(4, 3))
    few = IMAGES[:count], TRAIN[1][:count]
    train: Any = DataLoader(TensorDataset(*few), batch_size) if loader else few
    refused("one image", model=model, train=train, batch_size=batch_size)
    # More pixels a channel are enough, and so is another batch.
    quietly(net(), train=train, batch_size=batch_size, epochs=1)
    train = DataLoader(TensorDataset(*few), 2, drop_last=True) if loader else few
    quietly(model, train=train, batch_size=7, epochs=1)


def test_an_objective_that_returns_a_bare_loss_is_named():
    with pytest.raises(TypeError, match=r"returned a tensor, not Loss\(loss, logits\)"):
        quietly(net(0.0), lambda model, x, y, generator: model(x).mean())


def test_gradients_that_are_off_are_refused():
    with torch.no_grad():
        refused("switched off")
    with torch.inference_mode():
        refused("switched off")
    refused("requires_grad", model=net().requires_grad_(False))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"average": 0.5, "average_from": 4}, ValueError),
        ({"monitor": lambda model: {"figure": 0.1}, "select": "figrue"}, ValueError),
        ({"train": (torch.cat([to_float(IMAGES[:-1]), IMAGES[-1:]]), TRAIN[1])}, ValueError),
        ({"epochs": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"train": (IMAGES, TRAIN[1].int())}, TypeError),
        ({"train": (IMAGES, TRAIN[1][:5])}, ValueError),
        ({"train": (IMAGES, TRAIN[1] + 1)}, ValueError),
        ({"train": (IMAGES.numpy(), TRAIN[1].numpy())}, TypeError),
        ({"train": (IMAGES.float(), TRAIN[1])}, ValueError),
        ({"train": (IMAGES.long(), TRAIN[1])}, TypeError),
        ({"train": IMAGES}, TypeError),
        ({"train": DataLoader(TensorDataset(*TRAIN), 64, drop_last=True)}, TypeError),
        ({"train": DataLoader(WORDS, 2)}, TypeError),
        ({"train": DataLoader(Endless(), 2)}, TypeError),
        ({"device": "nowhere"}, ValueError),
    ],
    ids=lambda o: str(o)[:30],
)
def test_what_does_not_fit_is_refused_before_the_first_step(options, kind):
    refused(".", kind, **options)


@pytest.mark.parametrize(
    "objective", [nuat(Linf(0.1)), trades(Linf(0.1), steps=2), n_fgsm(Linf(0.1))]
)
def test_a_network_that_overwrites_its_images_trains_like_one_that_does_not(objective):
    one, other = Wrapped(net(), lambda x: x - 0.1), Wrapped(net(), lambda x: x.sub_(0.1))
    quietly(one, objective)
    quietly(other, objective)
    assert same(one, other)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    def broken(model, x, y, generator):
        loss = standard(model, x, y, generator)
        return Loss(loss.value * math.nan, loss.logits)

    with pytest.raises(FloatingPointError, match=r"epoch 1/4[^\n]*learning rate"):
        quietly(net(), broken, checkpoint=tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_numpy_numbers_are_numbers(tmp_path):
    options = {
        **{"lr": np.float32(0.1), "momentum": np.float64(0.9), "weight_decay": np.float32(0)},
        **{"seed": np.int64(1), "batch_size": np.int64(8), "epochs": np.int64(2)},
        **{"identity": {"n": np.float32(0.5), "betas": (0.9, 0.99)}},
        "monitor": lambda model: {"natural": np.float32(0.5)},
    }
    for _ in range(2):
        result = quietly(net(), checkpoint=tmp_path / "c", **options)
    assert result.history[-1]["natural"] == 0.5


class Weighted:
    """An objective that is an object, or its method, with a weight."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, model, x, y, generator):
        value, logits = standard(model, x, y, generator)
        return Loss(self.weight * value, logits)

    def loss(self, model, x, y, generator):
        return self(model, x, y, generator)


FEW = IMAGES[:16], TRAIN[1][:16]
COSINE: dict[str, Any] = {"schedule": lr_scheduler.CosineAnnealingLR}
NUMPYS: Any = np.float32(0.25), np.float32(1)
NUAT = {"objective": nuat(Linf(0.1))}


def in_ball(eps):
    return adversarial(partial(pgd, threat=Linf(eps), steps=1))


def either(option, one, other):
    return {option: one}, {option: other}


def own_rate(lr):
    return lambda p: SGD([{"params": list(p), "lr": lr}], lr=0.1)


def loader(batch_size):
    return DataLoader(TensorDataset(to_float(FEW[0]), FEW[1]), batch_size)


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "noise": either("objective", gaussian(0.25), gaussian(1.0)),
    "radius": either("objective", in_ball(0.1), in_ball(0.2)),
    "radii": either("objective", in_ball(torch.full((8,), 0.1)), in_ball(torch.full((8,), 0.2))),
    "rate": either("optimizer", lambda p: AdamW(p, lr=1e-3), lambda p: AdamW(p, lr=1e-2)),
    "an object": either("objective", Weighted(1.0), Weighted(9.0)),
    "a method": either("objective", Weighted(1.0).loss, Weighted(9.0).loss),
    "NumPy's": either("objective", gaussian(NUMPYS[0]), gaussian(NUMPYS[1])),
    "a schedule's length": (COSINE, COSINE | {"epochs": 2}),
    "a length that the objective asks for": (NUAT, NUAT | {"epochs": 2}),
    "another schedule": either(
        "schedule",
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
        lambda o, n: lr_scheduler.PolynomialLR(o, n),
    ),
    "a word of a schedule": either(
        "schedule",
        lambda o, n: lr_scheduler.OneCycleLR(o, 1, n, anneal_strategy="cos"),
        lambda o, n: lr_scheduler.OneCycleLR(o, 1, n, anneal_strategy="linear"),
    ),
    "an operation of a schedule": either(
        "schedule",
        lambda o, n: lr_scheduler.LambdaLR(o, lambda t: 1 + t / 2),
        lambda o, n: lr_scheduler.LambdaLR(o, lambda t: 1 - t / 2),
    ),
    "a group's rate": either("optimizer", own_rate(0.1), own_rate(0.2)),
    "a loader": either("train", loader(8), loader(4)),
}


CHANGES: list[dict[str, Any]] = [
    *({"identity": i} for i in (None, {}, {"name": "b"}, {"name": "a", "more": 1})),
    *({"lr": 0.5}, {"momentum": 0.0}, {"batch_size": 5}, {"seed": 3}, {"weight_decay": 0.1}),
    *({"objective": OBJECTIVES["gaussian"]}, {"augment": flip}),
    *({"optimizer": lambda p: Adam(p)}, {"autocast": torch.bfloat16}),
    {"schedule": lambda o, n: lr_scheduler.ConstantLR(o, 0.5)},
    {"train": (FEW[0].flip(0), FEW[1])},
    {"train": (FEW[0], (FEW[1] + 1) % 3)},
    {"train": (to_float(FEW[0]), FEW[1])},
]
OTHERS |= {f"{k} {', '.join(change)}": ({}, change) for k, change in enumerate(CHANGES)}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
def test_the_checkpoint_of_another_recipe_is_refused(tmp_path, one, other):
    options = {"train": FEW, "checkpoint": tmp_path / "c", "epochs": 1, "identity": {"name": "a"}}
    quietly(net(), **(options | one))
    quietly(net(), **(options | one))
    content, model = (tmp_path / "c").read_bytes(), net()
    with pytest.raises(WeightsError, match=r"belongs to another training[^\n]*$"):
        quietly(model, **(options | other))
    assert (tmp_path / "c").read_bytes() == content
    assert same(model, net())


def test_what_an_objective_has_seen_makes_it_no_other_one(tmp_path):
    seen = list[int]()

    def objective(model, x, y, generator):
        seen.append(len(x))
        return standard(model, x, y, generator)

    for epochs in (1, 2):
        quietly(net(), objective, epochs=epochs, checkpoint=tmp_path / "c")
    assert len(seen) == 6


@pytest.mark.parametrize("whose", ["loader", "sampler", "both", "batches"])
def test_a_loader_with_a_generator_goes_on_where_it_was(tmp_path, whose):
    def loader():
        data = TensorDataset(to_float(TRAIN[0]), TRAIN[1])
        if whose != "loader":
            more = {"generator": seeded(4)} if whose == "both" else {}  # the order is the sampler's
            sampler = RandomSampler(data, generator=seeded(3))
            if whose == "batches":
                return DataLoader(data, batch_sampler=BatchSampler(sampler, 8, False))
            return DataLoader(data, 8, sampler=sampler, **more)
        return DataLoader(data, 8, shuffle=True, generator=seeded(3))

    unbroken, resumed = net(), net()
    quietly(unbroken, train=loader(), epochs=2)
    quietly(net(), train=loader(), epochs=1, checkpoint=tmp_path / "c")
    quietly(resumed, train=loader(), epochs=2, checkpoint=tmp_path / "c")
    assert same(resumed, unbroken)


def test_the_last_batch_is_that_of_the_sampler():
    data = TensorDataset(to_float(TRAIN[0][:17]), TRAIN[1][:17])
    model = nn.Sequential(flat(), nn.BatchNorm1d(3))
    quietly(model, train=DataLoader(data, 8, sampler=range(16)), epochs=1)
    with pytest.raises(ValueError, match="last batch would hold one image"):
        quietly(model, train=DataLoader(data, 8, sampler=range(9)), epochs=1)


def test_averages_are_estimated_on_objectives_that_need_a_gradient():
    def smooth(model, x, y, generator):
        x = x.requires_grad_()
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return Loss(loss + slope.square().sum(), logits)

    quietly(net(), smooth, epochs=1, average=0.9)


def test_images_in_half_precision_have_a_checkpoint(tmp_path):
    train = to_float(TRAIN[0]).bfloat16(), TRAIN[1]
    for objective in (standard, nuat(Linf(0.1))):
        path = tmp_path / objective.__qualname__
        quietly(flat().bfloat16(), objective, train, epochs=1, checkpoint=path)
        assert path.exists()
