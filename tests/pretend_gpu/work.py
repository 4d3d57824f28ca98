"""What users do, in small, on any device: the same calls on the CPU and on the pretend GPU."""

import atexit
import copy
import functools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, TensorDataset

import rvlib as rv
from benchmarks.jobs import Job
from benchmarks.measure import run as run_job
from rvlib import experiments as ex
from rvlib import judge, pipeline
from rvlib import objectives as obj
from rvlib.attacks import gradient
from rvlib.attacks.gradient import configured, others
from rvlib.pipeline import repository
from rvlib.smoothing import stream, votes
from rvlib.training import crop_and_flip
from tests.networks import held_out, seeded, shipped
from tests.pretend_gpu.device import NAME, Cost, counted, load

torch.set_num_threads(1)
LINF, L2, PIXEL = rv.Linf(0.03), rv.L2(0.5), rv.PixelL2(0.045)
WIDE = rv.Linf(0.1)
IMAGES = 8
OWN_BLOCK, OWN_SLOPE = votes._block, gradient._slope


def begin(library: Path) -> None:
    """Start a process that has the device, and draws noise in hundreds there, as on the CPU."""
    torch.set_num_threads(1)
    atexit.register(os._exit, 0)  # Python takes seconds to take PyTorch down
    load(library)
    votes._block = lambda pixels, address: (votes.CHUNK, address)
    gradient._slope = slope


def slope(logits: Tensor, y: Tensor) -> Tensor:
    """Slope of the log odds; on a CPU in the formula of a GPU, written again.

    The one formula of a CPU that rounds otherwise, because published rows rest on it.
    """
    if logits.device.type == NAME:
        return OWN_SLOPE(logits, y)
    return others(logits, y).softmax(1).scatter(1, y[:, None], -1)


@functools.cache
def _data() -> tuple[Tensor, Tensor]:
    images, labels = rv.load("cifar10", "heldout")
    return images[:64].clone(), labels[:64].clone()


network = functools.cache(lambda device, name="pgd-linf-at": shipped(name, device))
"""A shipped network on a device."""


@functools.cache
def images(device: str, count: int = IMAGES) -> Any:
    """Held-out images as floats, and labels, on a device."""
    return [part.to(device) for part in held_out(count)]


def attacking(attack: Any, threat: Any, **options: Any) -> Callable[[str], Any]:
    """Attack eight images."""
    call = configured(partial(attack, threat=threat, **options))
    return lambda device: call(network(device), *images(device), stream(device, 0, "test"))


def smoothing(function: Any, count: int, *rest: Any, **options: Any) -> Callable[[str], Any]:
    """Let the smoothed network vote on a few images."""
    model = "gaussian-0.25"
    return lambda device: function(
        network(device, model), images(device, count)[0], *rest, **options
    )


def fitting(objective: Any, batches: int = 2, loads: bool = False, **options: Any) -> Any:
    """Train for some batches of 32 images; the weights and the loss."""

    def call(device: str) -> Any:
        model = copy.deepcopy(network("cpu"))
        data: Any = tuple(torch.cat([part] * -(-batches // 2)) for part in _data())
        data = tuple(part[: 32 * batches] for part in data)
        if loads:
            data = DataLoader(TensorDataset(rv.to_float(data[0]), data[1]), batch_size=32)
        found = rv.fit(model, objective, data, epochs=1, device=device, **_fused(device), **options)
        return [*model.state_dict().values(), found.history[-1]["loss"]]

    return call


def _fused(device: str) -> dict[str, Any]:
    """Give a CPU the optimiser of a GPU, which rounds otherwise."""
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)
    return {"optimizer": sgd} if device == "cpu" else {}


def dropping(device: str) -> Any:
    """Train layers that draw from the device's own generator."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(3072, 10))
    rv.fit(model, rv.gaussian(0.1), _data(), epochs=2, device=device, **_fused(device))
    return list(model.state_dict().values())


def checked_answers(*given: Any, **options: Any) -> Any:
    """Check an accuracy; what was found and what was to be."""
    return [check[1:3] for check in rv.sanity(*given, **options)]


def inside(device: str) -> Any:
    """Attack inside certified balls."""
    model, (x, _) = network(device, "gaussian-0.25"), images(device, 2)
    found = rv.certify(model, x, 0.25, n=200)
    return rv.counts_inside(model, x, found, 0.25, n=100, steps=2, draws=2)


def elsewhere(device: str) -> Any:
    """Run another library's attack, here one of its own random start."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.01 * torch.rand_like(x)).clamp(0, 1)

    checked = rv.checked_attack(attack, rv.Linf(0.03))
    return rv.predictions(network(device), *_data(), checked)


def judged_smoothed(device: str) -> Any:
    """Judge a smoothed network by few votes: rows."""
    with mock.patch.multiple(judge, CERTIFYING=500, predict=partial(rv.predict, n=300)):
        data = tuple(part[:1] for part in _data())
        verdict = rv.evaluate(network(device, "gaussian-0.25"), data, L2, sigma=0.25)
    return verdict.rows.to_dict("list")


def judged(device: str) -> Any:
    """Judge a network in a ball where nearly all falls: rows, and what the checks found."""
    data = tuple(part[:IMAGES] for part in _data())
    verdict = rv.evaluate(network(device), data, WIDE)
    return [verdict.rows.to_dict("list"), [check[1:3] for check in verdict.checks]]


FGSM: Any = partial(rv.fgsm, threat=LINF)
PGD = partial(rv.pgd, threat=LINF, step_size=0.02)

IN_EACH_BALL: list[tuple[str, Any, dict[str, Any]]] = [
    ("pgd", rv.pgd, {"steps": 4}),
    ("robust_mask", rv.robust_mask, {"steps": 6, "restarts": 2}),
    ("apgd", rv.apgd, {"steps": 6}),
    ("smoothed_pgd", rv.smoothed_pgd, {"sigma": 0.25, "draws": 4, "steps": 2}),
]

CALLS: dict[str, Callable[[str], Any]] = {
    "fgsm": attacking(rv.fgsm, LINF),
    **{
        f"{name} {ball.name}": attacking(attack, ball, **options)
        for ball in (LINF, L2, PIXEL)
        for name, attack, options in IN_EACH_BALL
    },
    "pgd restarts": attacking(rv.pgd, LINF, steps=2, restarts=3),
    "pgd margin": attacking(rv.pgd, LINF, steps=3, loss=rv.margin),
    "pgd eps an image": lambda d: rv.pgd(
        *(network(d), *images(d), rv.L2(torch.linspace(0.1, 0.5, IMAGES, device=d))),
        generator=stream(d, 1),
        steps=3,
    ),
    "square linf": attacking(rv.square, LINF, queries=30),
    "square l2": attacking(rv.square, L2, queries=15),
    "robust_mask, mask on the CPU": attacking(
        rv.robust_mask, LINF, steps=2, mask=torch.arange(IMAGES) > 1
    ),
    "autoattack, eps on the CPU": attacking(rv.autoattack, rv.Linf(torch.full((IMAGES,), 0.1))),
    "fab": attacking(rv.fab, LINF, steps=4),
    "autoattack": attacking(rv.autoattack, WIDE),
    "gradient": lambda d: rv.input_gradient(network(d), *images(d)),
    "predict": smoothing(rv.predict, 3, 0.25, n=300),
    "certify": smoothing(rv.certify, 3, 0.25, n=1000),
    "certify_at": smoothing(rv.certify_at, 3, 0.1, 0.25, n_max=600),
    "votes": smoothing(rv.sample_under_noise, 3, 0.25, 250, first=100),
    "votes image_ids": smoothing(rv.sample_under_noise, 2, 0.25, 150, image_ids=[7, 9]),
    "votes grid": smoothing(rv.sample_under_noise, 2, 0.25, 200, noise="grid"),
    "nested_counts": lambda d: rv.nested_counts(
        network(d, "gaussian-0.25"), images(d, 3)[0], 0.25, [100, 300], labels=images(d, 3)[1]
    ),
    "counts_inside": inside,
    "predictions": lambda d: rv.predictions(network(d), *_data(), PGD),
    "vote_counts": lambda d: rv.vote_counts(
        network(d, "gaussian-0.25"), *(part[:2] for part in _data()), FGSM, 0.25, 100
    ),
    "checked_attack": elsewhere,
    "evaluate": judged,
    "evaluate smoothed": judged_smoothed,
    "sanity": attacking(checked_answers, WIDE, steps=4, restarts=2, queries=30),
    "sanity, fallen on the CPU": attacking(
        *(checked_answers, WIDE), steps=2, restarts=2, queries=10, fallen=torch.arange(IMAGES) > 1
    ),
    "fit standard": fitting(rv.standard, augment=crop_and_flip),
    "fit gaussian, averaged": fitting(rv.gaussian(0.25), average=0.9),
    "fit adversarial": fitting(rv.adversarial(PGD)),
    "fit mixed": fitting(rv.mixed([FGSM, partial(rv.pgd, threat=PIXEL, steps=2)])),
    "fit trades": fitting(obj.trades(LINF, steps=2)),
    "fit n_fgsm": fitting(obj.n_fgsm(LINF)),
    "fit nuat": fitting(obj.nuat(LINF)),
    "fit consistency": fitting(obj.consistency(0.25)),
    "fit loader": fitting(rv.standard, loads=True),
    "fit dropout": dropping,
}
"""Calls of the public API, by name."""


def slopes(device: str = NAME) -> list[Any]:
    """Slope of the log odds at unsure, sure and very sure answers."""
    draws = torch.randn(50, 10, generator=seeded())
    y = (torch.arange(50) % 10).to(device)
    return [plain(OWN_SLOPE((scale * draws).to(device), y)) for scale in (1, 10, 100)]


def plain(found: Any) -> Any:
    """Copy a result's tensors to arrays, which another process can be given."""
    return tree_map(lambda v: v.detach().cpu().numpy() if isinstance(v, Tensor) else v, found)


def answer(name: str, device: str = NAME) -> tuple[Any, Cost]:
    """Make a call: its result, and on the device what it cost."""
    if device != NAME:
        return plain(CALLS[name](device)), Cost()
    for model in (network(device), network(device, "gaussian-0.25")):
        rv.pgd(model, *images(device), LINF, steps=1)  # moved there and checked once, not by calls
    with counted() as cost:
        found = CALLS[name](device)
    return plain(found), cost


# --- what loops cost ------------------------------------------------------------------------------


def loops(model: Any, noisy: Any, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Loops by name: functions of the number of rounds."""
    tiny = rv.Linf(1e-5)  # under which hardly an image falls
    attack = {"generator": stream(x.device, 0)}
    found: dict[str, Any] = {
        f"pgd {ball.name}": lambda n, ball=ball: rv.pgd(model, x, y, ball, steps=n, **attack)
        for ball in (LINF, L2, PIXEL)
    }
    found |= {
        "apgd": lambda n: rv.apgd(model, x, y, tiny, steps=20 * n, **attack),
        "robust_mask": lambda n: rv.robust_mask(model, x, y, tiny, steps=20 * n, **attack),
        "square": lambda n: rv.square(model, x, y, tiny, queries=20 * n, **attack),
        "square l2": lambda n: rv.square(model, x, y, rv.L2(1e-4), queries=20 * n, **attack),
        "smoothed_pgd": lambda n: rv.smoothed_pgd(
            *(noisy, x, y, L2), sigma=0.25, draws=2, steps=n, **attack
        ),
        "votes": lambda n: rv.sample_under_noise(noisy, x[:2], 0.25, 100 * n, batch_size=200),
        "votes grid": lambda n: rv.sample_under_noise(
            *(noisy, x[:2], 0.25, 100 * n), batch_size=200, noise="grid"
        ),
    }
    trainings = {
        **{"standard": rv.standard, "gaussian": rv.gaussian(0.25), "nuat": obj.nuat(LINF)},
        **{"adversarial": rv.adversarial(PGD), "trades": obj.trades(LINF, steps=2)},
    }
    return found | {
        f"fit {name}": lambda n, objective=objective: fitting(objective, n)(x.device.type)
        for name, objective in trainings.items()
    }


LOOPS = list(loops(None, None, *torch.zeros(2, 1)))
"""Their names, which need neither images nor a network."""


def costs(name: str, rounds: tuple[int, ...]) -> list[Cost]:
    """What a loop of so many rounds costs, each time."""
    loop, found = loops(network(NAME), network(NAME, "gaussian-0.25"), *images(NAME))[name], []
    with _own_blocks(2**21):  # 512 draws
        loop(max(rounds))  # fills what is kept on the device
        for n in rounds:
            with counted() as cost:
                loop(n)
            found.append(cost)
    return found


def _own_blocks(numbers: int) -> Any:
    """Draw noise as a GPU does, in blocks of so many numbers."""
    return mock.patch.multiple(votes, _block=OWN_BLOCK, BLOCK=numbers)


def drawn(noise: str, batch_size: int, first: int) -> tuple[list[int], list[int], Cost]:
    """Votes for three grey images from 10,000 draws in blocks of 4096 and in hundreds; the cost."""
    layer, x = nn.Linear(48, 4), torch.full((3, 3, 4, 4), 0.4)
    nn.init.eye_(layer.weight)
    model = nn.Sequential(nn.Flatten(), layer)
    vote: Any = partial(rv.sample_under_noise, model, sigma=0.25, n=10_000, noise=noise)
    in_hundreds = vote(x)
    model.to(NAME)
    with _own_blocks(2**18), counted() as cost:
        in_blocks = vote(x.to(NAME), first=first, batch_size=batch_size)
    return in_hundreds[0].tolist(), in_blocks[0].tolist(), cost


# --- what a GPU refuses, and what is counted ------------------------------------------------------


def refused(work: str) -> str:
    """Do what a GPU refuses; its words."""
    x, y = images(NAME)
    attempts: dict[str, Callable[[], Any]] = {
        "two devices": lambda: x + x.cpu(),
        "numpy": x.numpy,
        "images and network": lambda: rv.fgsm(network("cpu"), x, y, LINF),
        "images and labels": lambda: rv.fgsm(network(NAME), x, y.cpu(), LINF),
    }
    try:
        attempts[work]()
    except (RuntimeError, TypeError, ValueError) as error:
        return str(error)
    return ""


def small_work() -> list[tuple[int, int, int, int]]:
    """Count work that is known: kernels, waits, uploads, downloads of each."""
    x = torch.arange(6.0, device=NAME)
    mask, kernels = x > 2, []
    for work in (
        lambda: x + 1,
        lambda: x.view(2, 3).t()[0],
        lambda: x.sum().item(),
        lambda: mask.nonzero(),
        lambda: x[mask],
        lambda: bool(mask.any()),
        lambda: x.cpu(),
        lambda: torch.ones(2).to(NAME),
        lambda: x.clone(),
    ):
        with counted() as cost:
            work()
        kernels.append((cost.kernels, cost.waits, cost.uploads, cost.downloads))
    return kernels


# --- the pipeline and the benchmark ---------------------------------------------------------------


def measured(device: str, folder: Path) -> dict[str, Any]:
    """Measure as the report does, a little of everything."""
    run = _run("smoke", device, folder)
    profile = replace(run.profile, heldout=4, certified=4, vote_attacked=2, ns=(100, 300))
    run = replace(run, profile=profile)
    found = {
        "network": run.answers("pgd-linf-at", "pgd-linf"),
        "vote": run.answers("smoothed-0.25", "vote-pgd-linf"),
        "noise": run.under_noise(0.25, "fgsm"),
        "certificates": run.certificates(0.25),
        "inside": run.inside(0.25),
    }
    return {name: results.frame.to_dict("list") for name, results in found.items()}


def checked(device: str, folder: Path) -> dict[str, Any]:
    """Check the evaluation of one network, in small."""
    run = _run("smoke", device, folder)
    few = {"images": 4, "steps": 4, "restarts": 2, "queries": 30}
    one = mock.patch.object(ex, "DEFENCES", ("pgd-linf-at",))
    with one, mock.patch.dict(pipeline.CHECKED, few):
        return pipeline.check(run).to_dict("list")


def trained(device: str, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Train a network as the pipeline does, for two epochs of 64 images: weights and record."""
    run = replace(_run("full", device, folder), models=folder / device / "models")
    short = replace(ex.RECIPES["standard"], epochs=2)
    few = mock.patch.object(pipeline.run, "load", return_value=_data())
    with few, mock.patch.dict(ex.RECIPES, {"standard": short}):
        run.train_one("standard", 0)
        record = rv.models.read_record(run.weights("standard"))
        return plain(list(run.model("standard").state_dict().values())), record


def explored(name: str, device: str, folder: Path) -> list[str]:
    """Move all controls of an explorer at once, to their ends; what it says."""
    from rvlib import course

    explorer = getattr(course, f"explore_{name}")(_run("smoke", device, folder))
    ends = [[k] * len(explorer._controls) for k in (0, -1)]
    return [explorer.draw(positions)[1] for positions in ends]


def notebook(stem: str, device: str, folder: Path) -> int:
    """Run the cells of a notebook, without its exercises, in the smallest profile; how many."""
    parameters, *cells = [
        cell.source
        for cell in nbformat.read(repository() / "notebooks" / f"{stem}.ipynb", 4).cells
        if cell.cell_type == "code" and "course.check_" not in cell.source
    ]
    scope: dict[str, Any] = {}
    with mock.patch.dict("os.environ", RVLIB_BUILD=str(folder), RVLIB_STATIC="0"):
        exec(parameters, scope)
        scope |= {"profile": "smoke", "device": device}
        for source in cells:
            exec(source, scope)
    return len(cells)


def _run(profile: str, device: str, folder: Path) -> pipeline.Run:
    """Open a run that writes into a folder of its own."""
    return replace(pipeline.Run.open(profile, device), out=folder / device, log=lambda line: None)


def benchmarked(job: Job, implementation: str, inputs: Path, device: str = NAME) -> Any:
    """Do a job of the benchmark."""
    return run_job(job, implementation, inputs, device)
