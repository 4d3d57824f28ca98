"""The jobs of the benchmark: attacks, robust accuracy, a sweep, votes, an epoch of training."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rvlib.attacks import pgd, withstands, withstands_sweep
from rvlib.bench.compare import OURS, Job, Way
from rvlib.bench.peers import (
    Attack,
    Ball,
    peer_attacks,
    plain_adversarial_epoch,
    plain_certification,
)
from rvlib.data import load_cifar10, to_float
from rvlib.frozen import frozen
from rvlib.models import resnet18
from rvlib.models.weights import to_device
from rvlib.objectives import adversarial
from rvlib.recipes import (
    ATTACKS,
    BATCH_SIZE,
    LEARNING_RATE,
    LINF,
    LINF_STEP_SIZE,
    MOMENTUM,
    PGD_STEPS,
    SIGMA,
    TRUE_L2,
    TRUE_L2_STEP_SIZE,
    gaussian_name,
)
from rvlib.smoothing import certify, certify_at, sample_under_noise
from rvlib.stages.run import Run
from rvlib.threat_models import Linf
from rvlib.types import Images, Labels

RADII = [k / 255 for k in range(1, 9)]
VOTES = 1000
RESNET_IMAGES = 8
SWEEP_IMAGES = 256
CERTIFIED_IMAGES = 128
FIXED_IMAGES, FIXED_VOTES, RADIUS = 24, 100_000, 0.25


def jobs(run: Run) -> Iterator[Job]:
    """List the jobs, on the shipped networks and CIFAR-10's images.

    Parameters
    ----------
    run : Run
        Whose networks, images and device to use.

    Yields
    ------
    Job
        Attacks first.
    """
    images, labels = load_cifar10("heldout")
    device, count = run.place.device, run.profile.heldout
    # In PyTorch's own layout, as the peers' users have them.
    x, y = to_float(images[:count]).to(device).contiguous(), labels[:count].to(device)
    robust, undefended = run.model("pgd-linf-at"), run.model("standard")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        large = to_device(resnet18(), device).eval()
    small = x[:RESNET_IMAGES], y[:RESNET_IMAGES]
    balls: list[tuple[str, Ball, float]] = [
        ("l∞", LINF, LINF_STEP_SIZE),
        ("l2", TRUE_L2, TRUE_L2_STEP_SIZE),
    ]
    for norm, threat, step_size in balls:
        yield attack_job(f"PGD-10 {norm}, LeNet", robust, x, y, threat, step_size, 1.8)
        name = f"PGD-10 {norm}, ResNet-18 (not trained)"
        yield attack_job(name, large, *small, threat, step_size, 1.0)
    yield accuracy_job("robust accuracy, undefended LeNet", undefended, x, y, 4.0)
    yield accuracy_job("robust accuracy, robust LeNet", robust, x, y, 1.5)
    yield sweep_job("eight radii, robust LeNet", robust, x[:SWEEP_IMAGES], y[:SWEEP_IMAGES], 3.0)
    yield votes_job("1000 votes an image, LeNet", run, x[:CERTIFIED_IMAGES], y, 10.0)
    yield radius_job(f"certified at radius {RADIUS}, LeNet", run, x[:FIXED_IMAGES], y, 10.0)
    yield epoch_job("an epoch of PGD-10 training, LeNet", run, x, y, 1.5)


def attack_job(
    name: str, model: nn.Module, x: Images, y: Labels, threat: Ball, step_size: float, goal: float
) -> Job:
    """PGD-10 of all images to the last step."""
    fast, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        x_adv = pgd(
            fast, x_fast, y, threat, steps=PGD_STEPS, step_size=step_size, random_start=False
        )
        return _answers(fast, x_adv)

    return Job(name, {OURS: ours, **_peers(plain, x, y, threat, step_size)}, _right(y), goal)


def accuracy_job(name: str, model: nn.Module, x: Images, y: Labels, goal: float) -> Job:
    """Robust accuracy under PGD-10: which images stand."""
    fast, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        return withstands(
            fast, x_fast, y, LINF, steps=PGD_STEPS, step_size=LINF_STEP_SIZE, random_start=False
        )

    peers = _peers(plain, x, y, LINF, LINF_STEP_SIZE)
    ways = {OURS: ours} | {name: _stands([way], y) for name, way in peers.items()}
    return Job(name, ways, _mean, goal, "ours counts every iterate, theirs the last one")


def sweep_job(name: str, model: nn.Module, x: Images, y: Labels, goal: float) -> Job:
    """Robust accuracy at eight radii; one peer run a radius."""
    fast, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)
    threats = [Linf(eps) for eps in RADII]

    def ours() -> Tensor:
        return withstands_sweep(fast, x_fast, y, threats, random_start=False).flatten()

    runs = [_peers(plain, x, y, ball, 2.5 * ball.eps / PGD_STEPS) for ball in threats]
    ways = {OURS: ours} | {name: _stands([run[name] for run in runs], y) for name in runs[0]}
    return Job(name, ways, _mean, goal, "mean accuracy of the eight")


def votes_job(name: str, run: Run, x: Images, y: Labels, goal: float) -> Job:
    """Votes under noise, and the class that leads."""
    fast, plain = _both(run.model(gaussian_name(SIGMA)))
    x_fast, labels = x.contiguous(memory_format=torch.channels_last), y[: len(x)]

    def ours() -> Tensor:
        return sample_under_noise(fast, x_fast, SIGMA, VOTES).argmax(1).to(y.device)

    def loop() -> Tensor:
        return plain_certification(plain, x, SIGMA, VOTES, VOTES).argmax(1).to(y.device)

    ways = {OURS: ours, "Cohen et al.'s loop": loop}
    return Job(name, ways, _right(labels), goal, "other noise: close votes may go another way")


def radius_job(name: str, run: Run, x: Images, y: Labels, goal: float) -> Job:
    """Which images are certified at one radius: as many votes as it takes, or a fixed number."""
    model, labels = run.model(gaussian_name(SIGMA)), y[: len(x)]
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        found = certify_at(model, x_fast, RADIUS, SIGMA, labels=labels, most=FIXED_VOTES)
        right = found.prediction == labels.cpu().numpy()
        return torch.from_numpy(right & found.certified)

    def fixed() -> Tensor:
        found = certify(model, x_fast, SIGMA, n=FIXED_VOTES)
        return torch.from_numpy(
            (found.prediction == labels.cpu().numpy()) & (found.radius >= RADIUS)
        )

    ways = {OURS: ours, f"N = {FIXED_VOTES:,}": fixed}
    return Job(name, ways, _mean, goal, "both ours; the same guarantee")


def epoch_job(name: str, run: Run, x: Images, y: Labels, goal: float) -> Job:
    """One pass of adversarial training at the report's batch size, from the same weights."""
    fast, plain = _both(run.model(gaussian_name(SIGMA)))
    objective = adversarial(ATTACKS["pgd-linf"])

    def ours() -> Tensor:
        model = copy.deepcopy(fast).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE / 10, momentum=MOMENTUM)
        generator = torch.Generator(x.device)
        for images, labels in zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True):
            batch = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            objective(model, batch, labels, generator).value.backward()
            optimizer.step()
        return _answers(model.eval(), x)

    def loop() -> Tensor:
        model = copy.deepcopy(plain)
        batches = list(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True))
        plain_adversarial_epoch(
            model, batches, LINF, PGD_STEPS, LINF_STEP_SIZE, LEARNING_RATE / 10, MOMENTUM
        )
        return _answers(model.eval(), x)

    return Job(name, {OURS: ours, "plain loop": loop}, _right(y), goal)


def _both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Lend the network in our memory layout, and a copy in PyTorch's own for the peers."""
    return model, copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def _peers(model: nn.Module, x: Images, y: Labels, threat: Ball, step: float) -> dict[str, Way]:
    def way(attack: Attack) -> Way:
        return lambda: _answers(model, attack(model, x, y))

    return {name: way(a) for name, a in peer_attacks(threat, PGD_STEPS, step).items()}


def _stands(ways: Sequence[Way], y: Labels) -> Way:
    """Make of answers whether they are right, of several ways one after another."""
    return lambda: torch.cat([way() == y for way in ways])


def _answers(model: nn.Module, x: Images) -> Tensor:
    with frozen(model), torch.no_grad():
        return model(x).argmax(1)


def _right(y: Labels) -> Callable[[Tensor], float]:
    return lambda answers: 100 * (answers == y).double().mean().item()


def _mean(stands: Tensor) -> float:
    return 100 * stands.double().mean().item()
