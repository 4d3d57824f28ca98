"""rvlib.training: the loop learns, counts right, and goes on where it was killed."""

import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks import pgd
from rvlib.data import to_float
from rvlib.models.weights import WeightsError, pack, unpack
from rvlib.objectives import Loss, adversarial, gaussian, standard
from rvlib.threat_models import Linf
from rvlib.training import fit

EPOCHS = 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_start(model, x, y, generator):
    return pgd(model, x, y, Linf(0.1), steps=1, generator=generator)


OBJECTIVES = {
    "standard": standard,
    "gaussian": gaussian(0.2),
    "adversarial": adversarial(random_start),
}


@pytest.fixture
def train():
    """Random bytes with random labels, to be learnt by heart; the last batch of 8 has 6."""
    images = torch.randint(0, 256, (22, 3, 4, 4), generator=seeded(), dtype=torch.uint8)
    return images, torch.randint(0, 3, (22,), generator=seeded(1))


@pytest.fixture
def nets(toys):
    """Make toy networks with batch normalisation; dropout would draw from the global state."""

    def make():
        toy = toys()
        toy[1] = nn.Identity()
        return toy

    return make


@pytest.fixture
def flat():
    """One layer, no normalisation: what happens to it can be computed by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


def quietly(model, objective, train, **options):
    settings: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": 8,
        "lr": 0.1,
        "log": lambda line: None,
    }
    return fit(model, objective, train, **(settings | options))


def monitor(model):
    """A figure that rises and falls with the weights."""
    return {"figure": abs(next(model.parameters()).sum().item()) % 1}


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same(a, b):
    return same_state(a.state_dict(), b.state_dict())


# ---- learning -------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_it_learns_by_heart(nets, train, objective):
    result = quietly(nets(), objective, train, epochs=40)
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.history[-1]["accuracy"] > 0.8 > result.history[0]["accuracy"]


def test_steps_are_those_of_sgd_with_momentum(flat, train):
    """v <- m v + g, w <- w - lr v, here with all images in one batch."""
    x, y = to_float(train[0]), train[1]
    w = [p.detach().clone().requires_grad_(True) for p in flat.parameters()]
    v = [torch.zeros_like(p) for p in w]
    for _ in range(3):
        grads = torch.autograd.grad(F.cross_entropy(F.linear(x.flatten(1), *w), y), w)
        v = [0.7 * a + g for a, g in zip(v, grads, strict=True)]
        w = [(p - 0.3 * a).detach().requires_grad_(True) for p, a in zip(w, v, strict=True)]
    quietly(flat, standard, train, epochs=3, batch_size=22, lr=0.3, momentum=0.7)
    for got, expected in zip(flat.parameters(), w, strict=True):
        torch.testing.assert_close(got, expected)


def test_history_is_the_mean_over_images_not_over_batches(flat, train):
    images, labels = train
    logits = flat(to_float(images)).detach()
    entry = quietly(flat, standard, train, epochs=1, lr=0.0).history[0]
    assert entry["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert entry["accuracy"] == (logits.argmax(1) == labels).double().mean().item()


def test_each_epoch_passes_each_image_once_in_another_order():
    """Images carry their number in every pixel; the last batch is the rest."""
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 2, 2)
    labels = torch.arange(10) % 3
    batches = []

    def spy(model, x, y, generator):
        assert model.training
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        numbers = (255 * x[:, 0, 0, 0]).round().long()
        assert torch.equal(y, numbers % 3)
        batches.append(numbers.tolist())
        return standard(model, x, y, generator)

    def monitor(model):
        model.eval()  # a monitor may forget to switch back
        return {"figure": 0.0}

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    settings = {"epochs": 3, "batch_size": 4, "monitor": monitor, "select": "figure"}
    quietly(model, spy, (images, labels), **settings)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    orders = [[*batches[i], *batches[i + 1], *batches[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_a_loss_that_is_no_number_stops_the_training(nets, train, tmp_path):
    def broken(model, x, y, generator):
        loss = standard(model, x, y, generator)
        return Loss(loss.value * float("nan"), loss.logits)

    with pytest.raises(FloatingPointError, match=r"epoch 1/4.*learning rate") as refusal:
        quietly(nets(), broken, train, checkpoint=tmp_path / "checkpoint")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}])
def test_settings_that_make_no_training_are_refused(nets, train, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        quietly(nets(), standard, train, **options)


def test_it_says_one_line_an_epoch_and_nothing_else(nets, train, capsys):
    lines: list[str] = []
    options = {"monitor": lambda model: {"natural": 0.5}, "select": "natural"}
    quietly(nets(), standard, train, epochs=2, log=lines.append, **options)
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  loss ")
    assert lines[1].startswith("epoch 2/2  loss ")
    assert lines[1].endswith("  natural 50.0%")
    assert capsys.readouterr() == ("", "")


# ---- randomness -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_same_seed_gives_the_same_weights_bit_for_bit(nets, train, objective):
    one, other = nets(), nets()
    first = quietly(one, objective, train, seed=5)
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        second = quietly(other, objective, train, seed=5)
    assert same(one, other)
    assert first.history == second.history
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_another_seed_gives_other_weights(nets, train, objective):
    one, other = nets(), nets()
    quietly(one, objective, train, seed=5)
    quietly(other, objective, train, seed=6)
    assert not same(one, other)


def test_global_random_state_is_left_alone(nets, train):
    before = torch.get_rng_state()
    quietly(nets(), gaussian(0.2), train)
    assert torch.equal(torch.get_rng_state(), before)


def test_order_does_not_depend_on_the_objective(nets, train):
    """Two recipes of one seed see the same batches: their difference is the objective's."""
    orders: list[list[Tensor]] = []

    def spying_on(objective):
        def spy(model, x, y, generator):
            orders[-1].append(x)
            return objective(model, x, y, generator)

        return spy

    for objective in OBJECTIVES.values():
        orders.append([])
        quietly(nets(), spying_on(objective), train)
    for other in orders[1:]:
        assert all(torch.equal(a, b) for a, b in zip(orders[0], other, strict=True))


# ---- best epoch -----------------------------------------------------------------------------


def scripted(figures, states=None):
    """A monitor that measures what it is told to, and keeps the weights it was shown."""
    figures = iter(figures)

    def monitor(model):
        if states is not None:
            states.append({name: value.clone() for name, value in model.state_dict().items()})
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
    ],
)
def test_best_epoch_is_the_highest_and_its_weights_are_kept(nets, train, figures, best):
    states: list[dict[str, Tensor]] = []
    net = nets()
    result = quietly(net, standard, train, monitor=scripted(figures, states), select="figure")
    assert result.best_epoch == best
    assert [entry["figure"] for entry in result.history] == figures
    assert [set(entry) for entry in result.history] == [{"loss", "accuracy", "figure", "other"}] * 4
    assert same_state(result.best_state, states[best])
    assert same_state(net.state_dict(), states[-1])  # the network itself holds the last
    assert not same_state(states[0], states[-1])


def test_a_figure_that_is_not_measured_cannot_select(nets, train):
    with pytest.raises((KeyError, ValueError), match="figrue"):
        quietly(nets(), standard, train, monitor=scripted([0.1] * 4), select="figrue")


def test_without_a_monitor_it_trains_all_the_same(nets, train):
    result = quietly(nets(), standard, train)
    assert len(result.history) == EPOCHS


# ---- checkpoints ----------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(lines):
    """A log that does not survive its n-th line."""
    count = itertools.count(1)

    def log(line):
        if next(count) == lines:
            raise Killed

    return log


def states_agree(one, other):
    return (
        one.history == other.history
        and one.best_epoch == other.best_epoch
        and same_state(one.best_state, other.best_state)
    )


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("lines", [1, 2, 3, 4])
def test_a_killed_training_ends_like_an_unbroken_one(nets, train, tmp_path, objective, lines):
    options = {"monitor": monitor, "select": "figure", "checkpoint": tmp_path / "a" / "checkpoint"}
    unbroken, broken = nets(), nets()
    expected = quietly(unbroken, objective, train, monitor=monitor, select="figure")
    with pytest.raises(Killed):
        quietly(broken, objective, train, log=killed_after(lines), **options)
    said: list[str] = []
    resumed = nets()
    result = quietly(resumed, objective, train, log=said.append, **options)
    assert same(resumed, unbroken)  # bit for bit
    assert states_agree(result, expected)
    assert 0 < len(said) == EPOCHS - lines + 1  # the epoch whose line failed was not yet kept


def test_a_checkpoint_may_be_named_as_text(nets, train, tmp_path):
    path, said = tmp_path / "checkpoint", list[str]()
    quietly(nets(), standard, train, checkpoint=str(path))
    assert path.exists()
    quietly(nets(), standard, train, checkpoint=str(path), log=said.append)
    assert not said  # it was taken up: nothing left to do


def test_killed_within_an_epoch_it_starts_that_epoch_again(nets, train, tmp_path):
    unbroken, steps = nets(), itertools.count(1)
    quietly(unbroken, gaussian(0.2), train)

    def dying(model, x, y, generator):
        if next(steps) == 8:  # three steps an epoch
            raise Killed
        return gaussian(0.2)(model, x, y, generator)

    with pytest.raises(Killed):
        quietly(nets(), dying, train, checkpoint=tmp_path / "checkpoint")
    said: list[str] = []
    resumed = nets()
    quietly(resumed, gaussian(0.2), train, checkpoint=tmp_path / "checkpoint", log=said.append)
    assert same(resumed, unbroken)
    assert len(said) == 2


def test_a_finished_training_is_not_repeated(nets, train, tmp_path):
    said: list[str] = []
    one, other = nets(), nets()
    first = quietly(one, standard, train, checkpoint=tmp_path / "checkpoint")
    second = quietly(other, standard, train, checkpoint=tmp_path / "checkpoint", log=said.append)
    assert same(one, other)
    assert states_agree(first, second)
    assert not said


def test_a_best_epoch_before_the_kill_is_remembered(nets, train, tmp_path):
    options = {"select": "figure", "checkpoint": tmp_path / "checkpoint"}
    states: list[dict[str, Tensor]] = []
    falling = scripted([0.9, 0.2, 0.1], states)
    with pytest.raises(Killed):
        quietly(nets(), standard, train, monitor=falling, log=killed_after(3), **options)
    result = quietly(nets(), standard, train, monitor=scripted([0.3, 0.4]), **options)
    assert result.best_epoch == 0
    assert same_state(result.best_state, states[0])


@pytest.mark.parametrize("verb", ["write_bytes", "replace"])
def test_a_checkpoint_is_never_half_there(nets, train, tmp_path, monkeypatch, verb):
    unbroken = nets()
    quietly(unbroken, standard, train)
    path, calls, original = tmp_path / "checkpoint", itertools.count(1), getattr(Path, verb)

    def full_disk(self, argument):
        if next(calls) == 2:
            if verb == "write_bytes":
                original(self, argument[:100])
            raise OSError(28, "No space left on device")
        return original(self, argument)

    monkeypatch.setattr(Path, verb, full_disk)
    with pytest.raises(OSError, match="No space"):
        quietly(nets(), standard, train, checkpoint=path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    said: list[str] = []
    resumed = nets()
    quietly(resumed, standard, train, checkpoint=path, log=said.append)
    assert len(said) == 3  # the first epoch's checkpoint survived
    assert same(resumed, unbroken)


IDENTITY = {"recipe": {"name": "toy", "attacks": [{"eps": 0.03}]}, "seed": 0}


def test_its_own_checkpoint_is_taken_up(nets, train, tmp_path):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, identity=IDENTITY, epochs=2)
    said: list[str] = []
    quietly(nets(), standard, train, checkpoint=path, identity=IDENTITY, log=said.append)
    assert len(said) == 2


@pytest.mark.parametrize(
    "identity", [None, {}, IDENTITY | {"seed": 1}, IDENTITY | {"recipe": {"name": "other"}}]
)
def test_a_foreign_checkpoint_is_refused_in_one_line(nets, train, tmp_path, identity):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, identity=IDENTITY, epochs=1)
    content, net = path.read_bytes(), nets()
    with pytest.raises(WeightsError, match="checkpoint belongs to another training") as refusal:
        quietly(net, standard, train, checkpoint=path, identity=identity)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content
    assert same(net, nets())


@pytest.mark.parametrize(
    "changes", [{"lr": 0.5}, {"momentum": 0.0}, {"batch_size": 5}, {"seed": 3}], ids=str
)
def test_a_checkpoint_of_other_numbers_is_refused_untold(nets, train, tmp_path, changes):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, epochs=1)
    with pytest.raises(WeightsError, match="belongs to another training"):
        quietly(nets(), standard, train, checkpoint=path, **changes)


@pytest.mark.parametrize("part", [0, 1])
def test_a_checkpoint_of_other_images_or_labels_is_refused(nets, train, tmp_path, part):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, epochs=1)
    other = [tensor.clone() for tensor in train]
    other[part][0] = (other[part][0] + 1) % 2
    with pytest.raises(WeightsError, match="belongs to another training"):
        quietly(nets(), standard, tuple(other), checkpoint=path)


def test_a_checkpoint_with_another_devices_randomness_is_refused(nets, train, tmp_path):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, epochs=1)
    saved = unpack(path.read_bytes())
    path.write_bytes(pack(saved | {"noise": saved["noise"][:16]}))  # as long as a GPU's
    with pytest.raises(WeightsError, match="cannot be read: delete it and train again"):
        quietly(nets(), standard, train, checkpoint=path)


def test_a_checkpoint_of_another_network_is_refused_in_one_line(nets, flat, train, tmp_path):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, epochs=1)
    with pytest.raises(WeightsError, match="checkpoint") as refusal:
        quietly(flat, standard, train, checkpoint=path)
    assert "\n" not in str(refusal.value)


def torch_file(thing):
    content = io.BytesIO()
    torch.save(thing, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        pickle.dumps({"identity": {}}),
        torch_file(torch.zeros(2)),
        torch_file({}),
        torch_file(["identity"]),
        torch_file({"identity": {}}),
        torch_file({"fc.weight": torch.zeros(2)}),
        torch_file(nn.Linear(1, 1)),
    ],
    ids=["empty", "text", "pickle", "tensor", "nothing", "list", "part", "weights", "network"],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(nets, train, tmp_path, content):
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    net = nets()
    with pytest.raises(WeightsError, match=r"checkpoint.*(delete it|move it)") as refusal:
        quietly(net, standard, train, checkpoint=path)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content
    assert same(net, nets())


class Trap:
    """Makes a folder when a file that holds it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def test_code_in_a_checkpoint_does_not_run(nets, train, tmp_path):
    path, folder = tmp_path / "checkpoint", tmp_path / "sprung"
    path.write_bytes(torch_file({"identity": Trap(folder)}))
    with pytest.raises(WeightsError, match="cannot be read: delete it"):
        quietly(nets(), standard, train, checkpoint=path)
    assert not folder.exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused_in_one_line(nets, train, tmp_path, share):
    path = tmp_path / "checkpoint"
    quietly(nets(), standard, train, checkpoint=path, epochs=1)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="cannot be read: delete it") as refusal:
        quietly(nets(), standard, train, checkpoint=path)
    assert "\n" not in str(refusal.value)
