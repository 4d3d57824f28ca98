"""The jobs of the benchmark: attacks, robust accuracy, a sweep, votes, an epoch of training."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rvlib.attacks import pgd, withstands, withstands_sweep
from rvlib.bench.compare import OURS, Job, Way
from rvlib.bench.networks import short_resnet18
from rvlib.bench.peers import (
    Attack,
    Ball,
    peer_attacks,
    plain_adversarial_epoch,
    plain_certification,
)
from rvlib.data import load_cifar10, to_float
from rvlib.evaluation import nested_votes
from rvlib.frozen import frozen
from rvlib.models import Bfloat16
from rvlib.objectives import adversarial
from rvlib.recipes import (
    ALPHA,
    ATTACKS,
    BATCH_SIZE,
    LEARNING_RATE,
    LINF,
    LINF_STEP_SIZE,
    MOMENTUM,
    N0,
    PGD_STEPS,
    SIGMA,
    TRUE_L2,
    TRUE_L2_STEP_SIZE,
    gaussian_name,
)
from rvlib.smoothing import certificate, certify, certify_at, sample_under_noise
from rvlib.stages.run import Run
from rvlib.threat_models import Linf
from rvlib.types import Images, Labels

RADII = [k / 255 for k in range(1, 9)]
VOTES = 1000
SWEEP_IMAGES = 256
CERTIFIED_IMAGES = 128
FIXED_IMAGES, FIXED_VOTES, RADIUS = 24, 100_000, 0.25
CERTIFICATES, CERTIFICATE_VOTES = 48, 10_000
"""Images and votes of the certificates at a fixed number of votes."""
LOOP_BATCH = 1000
"""Copies in a batch of Cohen et al.'s script as it comes."""
BEST_LOOP_BATCH = 100
"""Copies in a batch that the loop was quickest with on a CPU."""

RESNET_IMAGES = {"cpu": 16, "cuda": 1024}
RESNET_VOTED = {"cpu": (2, 200), "cuda": (16, 10_000)}
"""Images and votes of each."""
RESNET_TRAINED = {"cpu": 32, "cuda": 1024}


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
    noisy, large = run.model(gaussian_name(SIGMA)), short_resnet18(run)
    few = RESNET_IMAGES[device.type]
    balls: list[tuple[str, Ball, float]] = [
        ("l∞", LINF, LINF_STEP_SIZE),
        ("l2", TRUE_L2, TRUE_L2_STEP_SIZE),
    ]
    for norm, threat, step in balls:
        yield attack_job(f"PGD-10 {norm}, LeNet", robust, robust, x, y, threat, step, 1.8)
        name = f"PGD-10 {norm}, ResNet-18"
        yield attack_job(name, large, large, x[:few], y[:few], threat, step, 1.0)
        rounded = Bfloat16(large).eval()
        name += ", ours in bfloat16"
        yield attack_job(name, large, rounded, x[:few], y[:few], threat, step, 1.8)
    yield accuracy_job("robust accuracy, undefended LeNet", undefended, x, y, 4.0)
    yield accuracy_job("robust accuracy, robust LeNet", robust, x, y, 1.5)
    yield sweep_job("eight radii, robust LeNet", robust, x[:SWEEP_IMAGES], y[:SWEEP_IMAGES], 3.0)
    certified = x[:CERTIFIED_IMAGES], y[:CERTIFIED_IMAGES]
    name = "1000 votes an image, LeNet"
    yield votes_job(name, noisy, noisy, *certified, VOTES, LOOP_BATCH, 10.0)
    name += f", the loop in batches of {BEST_LOOP_BATCH}"
    yield votes_job(name, noisy, noisy, *certified, VOTES, BEST_LOOP_BATCH, None)
    stored = images[:CERTIFICATES].to(device)
    yield certificate_job("certificates, LeNet", noisy, stored, y[:CERTIFICATES], 10.0)
    few, votes = RESNET_VOTED[device.type]
    name = f"{votes} votes an image, ResNet-18"
    yield votes_job(name, large, large, x[:few], y[:few], votes, LOOP_BATCH, None)
    name += ", ours in bfloat16"
    yield votes_job(name, large, Bfloat16(large).eval(), x[:few], y[:few], votes, LOOP_BATCH, None)
    fixed = x[:FIXED_IMAGES], y[:FIXED_IMAGES]
    yield radius_job(f"certified at radius {RADIUS}, LeNet", noisy, *fixed, 10.0)
    yield epoch_job("an epoch of PGD-10 training, LeNet", noisy, x, y, 1.5)
    few = RESNET_TRAINED[device.type]
    yield epoch_job("an epoch of PGD-10 training, ResNet-18", large, x[:few], y[:few], 1.5)


def attack_job(
    name: str,
    judge: nn.Module,
    climbed: nn.Module,
    x: Images,
    y: Labels,
    threat: Ball,
    step_size: float,
    goal: float,
) -> Job:
    """PGD-10 of all images to the last step; ours on `climbed`, theirs on `judge`, who answers."""
    fast, plain = _both(judge)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        x_adv = pgd(
            climbed, x_fast, y, threat, steps=PGD_STEPS, step_size=step_size, random_start=False
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


def votes_job(
    name: str,
    model: nn.Module,
    voting: nn.Module,
    x: Images,
    y: Labels,
    votes: int,
    batch: int,
    goal: float | None,
) -> Job:
    """Votes under noise, and the class that leads; ours of `voting`, the loop's of `model`."""
    _, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        return sample_under_noise(voting, x_fast, SIGMA, votes).argmax(1).to(y.device)

    def loop() -> Tensor:
        return plain_certification(plain, x, SIGMA, votes, batch).argmax(1).to(y.device)

    ways = {OURS: ours, "Cohen et al.'s loop": loop}
    return Job(name, ways, _right(y), goal, "other noise: close votes may go another way")


def certificate_job(name: str, model: nn.Module, images: Images, y: Labels, goal: float) -> Job:
    """Certified accuracy at a fixed number of votes, from uint8 images to radii.

    Ours draws no further votes for an image whose selected class is wrong: it is certified rightly
    at no radius, so that the accuracy is the same.
    """
    _, plain = _both(model)
    x, labels = to_float(images), y.cpu().numpy()

    def right(selection: Tensor, counts: Tensor) -> Tensor:
        found = certificate(selection.cpu(), counts.cpu(), ALPHA, SIGMA)
        return torch.from_numpy((found.prediction == labels) & (found.radius >= RADIUS))

    def ours() -> Tensor:
        ns = [N0, CERTIFICATE_VOTES]
        selection, counts = nested_votes(model, images, SIGMA, ns, n0=N0, labels=y)
        sampled = counts[CERTIFICATE_VOTES].sum(1, keepdim=True) > 0
        # An image that was left out is certified no more than by the votes it has.
        return right(selection, torch.where(sampled, counts[CERTIFICATE_VOTES], counts[N0]))

    def loop() -> Tensor:
        selection, counts = (
            plain_certification(plain, x, SIGMA, n, LOOP_BATCH) for n in (N0, CERTIFICATE_VOTES)
        )
        return right(selection, counts)

    ways = {OURS: ours, "Cohen et al.'s loop": loop}
    return Job(f"{name}, N = {CERTIFICATE_VOTES:,}", ways, _mean, goal, "certified at 0.25")


def radius_job(name: str, model: nn.Module, x: Images, y: Labels, goal: float) -> Job:
    """Which images are certified at one radius: as many votes as it takes, or a fixed number."""
    x_fast, labels = x.contiguous(memory_format=torch.channels_last), y.cpu().numpy()

    def ours() -> Tensor:
        found = certify_at(model, x_fast, RADIUS, SIGMA, labels=y, most=FIXED_VOTES)
        return torch.from_numpy((found.prediction == labels) & found.certified)

    def fixed() -> Tensor:
        found = certify(model, x_fast, SIGMA, n=FIXED_VOTES)
        return torch.from_numpy((found.prediction == labels) & (found.radius >= RADIUS))

    ways = {OURS: ours, f"N = {FIXED_VOTES:,}": fixed}
    return Job(name, ways, _mean, goal, "both ours; the same guarantee")


def epoch_job(name: str, model: nn.Module, x: Images, y: Labels, goal: float) -> Job:
    """One pass of adversarial training at the report's batch size, from the same weights."""
    fast, plain = _both(model)
    objective = adversarial(ATTACKS["pgd-linf"])
    batches = list(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True))

    def ours() -> Tensor:
        trained = copy.deepcopy(fast).train()
        optimizer = torch.optim.SGD(trained.parameters(), lr=LEARNING_RATE / 10, momentum=MOMENTUM)
        generator = torch.Generator(x.device)
        for images, labels in batches:
            batch = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            objective(trained, batch, labels, generator).value.backward()
            optimizer.step()
        return _answers(trained, x)

    def loop() -> Tensor:
        trained = copy.deepcopy(plain)
        rates = LEARNING_RATE / 10, MOMENTUM
        plain_adversarial_epoch(trained, batches, LINF, PGD_STEPS, LINF_STEP_SIZE, *rates)
        return _answers(trained, x)

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
