"""The jobs of the benchmark: attacks, robust accuracy, a sweep, votes, an epoch of training."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rvlib.attacks import pgd, withstands, withstands_sweep
from rvlib.attacks.ascent import TILE
from rvlib.bench.compare import OURS, Job, Way
from rvlib.bench.networks import short_resnet18
from rvlib.bench.peers import (
    Attack,
    Ball,
    peer_attacks,
    plain_adversarial_epoch,
    plain_certification,
)
from rvlib.bench.plan import (
    AT_RADIUS,
    BATCHES,
    BEST_LOOP_BATCH,
    BFLOAT16,
    CERTIFICATES,
    EPOCH,
    PGD,
    RADIUS,
    ROBUST,
    SIZES,
    SOUND,
    SWEEP,
    TILES,
    UNDEFENDED,
    VOTES,
)
from rvlib.data import load_cifar10, to_float
from rvlib.evaluation import nested_votes
from rvlib.frozen import frozen
from rvlib.models import Bfloat16
from rvlib.noise import stream
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
from rvlib.training import fit
from rvlib.types import Images, Labels

RADII = [k / 255 for k in range(1, 9)]
OTHER_NOISE = "other noise: close votes may go another way"
LOOP_BATCH = 1000
"""Copies in a batch of Cohen et al.'s script as it comes."""


def jobs(run: Run) -> Iterator[Job]:
    """List the jobs, on the shipped networks and CIFAR-10's images.

    Parameters
    ----------
    run : Run
        Whose networks, images and device to use.

    Yields
    ------
    Job
        One for each of ``rvlib.bench.plan.GOALS``, in that order.
    """
    images, labels = load_cifar10("heldout")
    device, count = run.place.device, run.profile.heldout
    sizes = SIZES[device.type]
    # In PyTorch's own layout, as the peers' users have them.
    x, y = to_float(images[:count]).to(device).contiguous(), labels[:count].to(device)
    robust, undefended = run.model("pgd-linf-at"), run.model("standard")
    noisy, large = run.model(gaussian_name(SIGMA)), short_resnet18(run)
    rounded = Bfloat16(large).eval()
    balls: list[tuple[str, Ball, float]] = [
        ("l∞", LINF, LINF_STEP_SIZE),
        ("l2", TRUE_L2, TRUE_L2_STEP_SIZE),
    ]
    few = x[: sizes.resnet_attacked], y[: sizes.resnet_attacked]
    for norm, threat, step in balls:
        name = PGD.format(norm=norm, network="LeNet")
        yield attack_job(name, robust, robust, x, y, threat, step)
        name = TILES.format(norm=norm)
        yield attack_job(name, robust, robust, x, y, threat, step, batch=TILE)
        name = PGD.format(norm=norm, network="ResNet-18")
        yield attack_job(name, large, large, *few, threat, step)
        yield attack_job(BFLOAT16.format(job=name), large, rounded, *few, threat, step)
    yield accuracy_job(UNDEFENDED, undefended, x, y)
    yield accuracy_job(ROBUST, robust, x, y)
    yield sweep_job(SWEEP, robust, x[: sizes.swept], y[: sizes.swept])
    name, (few_images, n) = VOTES.format(network="LeNet"), sizes.voted
    voted = x[:few_images], y[:few_images]
    yield votes_job(name, noisy, noisy, *voted, n, LOOP_BATCH)
    yield votes_job(BATCHES, noisy, noisy, *voted, n, BEST_LOOP_BATCH)
    yield sound_job(SOUND, noisy, *voted, n)
    few_images, n = sizes.certificates
    stored = images[:few_images].to(device)
    yield certificate_job(CERTIFICATES, noisy, stored, y[:few_images], n)
    name, (few_images, n) = VOTES.format(network="ResNet-18"), sizes.resnet_voted
    voted = x[:few_images], y[:few_images]
    yield votes_job(name, large, large, *voted, n, LOOP_BATCH)
    yield votes_job(BFLOAT16.format(job=name), large, rounded, *voted, n, LOOP_BATCH)
    few_images, n = sizes.at_radius
    yield radius_job(AT_RADIUS, noisy, x[:few_images], y[:few_images], n)
    yield epoch_job(EPOCH.format(network="LeNet"), noisy, images[:count], labels[:count], device)
    few = images[: sizes.resnet_trained], labels[: sizes.resnet_trained]
    yield epoch_job(EPOCH.format(network="ResNet-18"), large, *few, device)


def attack_job(
    name: str,
    judge: nn.Module,
    climbed: nn.Module,
    x: Images,
    y: Labels,
    threat: Ball,
    step_size: float,
    batch: int | None = None,
) -> Job:
    """PGD-10 of all images to the last step; ours on `climbed`, theirs on `judge`, who answers.

    The peers are given all images at once, as they are used, or `batch` at a time.
    """
    fast, plain = _both(judge)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        x_adv = pgd(
            climbed, x_fast, y, threat, steps=PGD_STEPS, step_size=step_size, random_start=False
        )
        return _answers(fast, x_adv)

    ways = {OURS: ours, **_peers(plain, x, y, threat, step_size, batch)}
    return Job(name, _on(x), ways, _right(y))


def accuracy_job(name: str, model: nn.Module, x: Images, y: Labels) -> Job:
    """Robust accuracy under PGD-10: which images stand."""
    fast, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        return withstands(
            fast, x_fast, y, LINF, steps=PGD_STEPS, step_size=LINF_STEP_SIZE, random_start=False
        )

    peers = _peers(plain, x, y, LINF, LINF_STEP_SIZE)
    ways = {OURS: ours} | {name: _stands([way], y) for name, way in peers.items()}
    return Job(name, _on(x), ways, _mean, "ours counts every iterate, theirs the last one")


def sweep_job(name: str, model: nn.Module, x: Images, y: Labels) -> Job:
    """Robust accuracy at eight radii; one peer run a radius."""
    fast, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)
    threats = [Linf(eps) for eps in RADII]

    def ours() -> Tensor:
        return withstands_sweep(fast, x_fast, y, threats, random_start=False).flatten()

    runs = [_peers(plain, x, y, ball, 2.5 * ball.eps / PGD_STEPS) for ball in threats]
    ways = {OURS: ours} | {name: _stands([run[name] for run in runs], y) for name in runs[0]}
    return Job(name, _on(x), ways, _mean, "mean accuracy of the eight")


def votes_job(
    name: str,
    model: nn.Module,
    voting: nn.Module,
    x: Images,
    y: Labels,
    votes: int,
    batch: int,
) -> Job:
    """Votes under noise, and the class that leads; ours of `voting`, the loop's of `model`."""
    _, plain = _both(model)
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        return sample_under_noise(voting, x_fast, SIGMA, votes)

    def loop() -> Tensor:
        return plain_certification(plain, x, SIGMA, votes, batch)

    ways = {OURS: ours, "Cohen et al.'s loop": loop}
    return Job(name, _on(x, votes), ways, _right(y.cpu()), OTHER_NOISE)


def sound_job(name: str, model: nn.Module, x: Images, y: Labels, votes: int) -> Job:
    """Votes under noise on the grid, whose sums are exact, beside those under ordinary noise."""
    x_fast = x.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        return sample_under_noise(model, x_fast, SIGMA, votes, sound=True)

    def ordinary() -> Tensor:
        return sample_under_noise(model, x_fast, SIGMA, votes)

    ways = {OURS: ours, "rvlib's ordinary votes": ordinary}
    return Job(name, _on(x, votes), ways, _right(y.cpu()), OTHER_NOISE)


def certificate_job(name: str, model: nn.Module, images: Images, y: Labels, votes: int) -> Job:
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
        selection, counts = nested_votes(model, images, SIGMA, [N0, votes], n0=N0, labels=y)
        sampled = counts[votes].sum(1, keepdim=True) > 0
        # An image that was left out is certified no more than by the votes it has.
        return right(selection, torch.where(sampled, counts[votes], counts[N0]))

    def loop() -> Tensor:
        selection, counts = (
            plain_certification(plain, x, SIGMA, n, LOOP_BATCH) for n in (N0, votes)
        )
        return right(selection, counts)

    ways = {OURS: ours, "Cohen et al.'s loop": loop}
    return Job(name, _on(images, votes), ways, _mean, f"certified at {RADIUS}")


def radius_job(name: str, model: nn.Module, x: Images, y: Labels, votes: int) -> Job:
    """Which images are certified at one radius: as many votes as it takes, or a fixed number."""
    x_fast, labels = x.contiguous(memory_format=torch.channels_last), y.cpu().numpy()

    def ours() -> Tensor:
        found = certify_at(model, x_fast, RADIUS, SIGMA, labels=y, most=votes)
        return torch.from_numpy((found.prediction == labels) & found.certified)

    def fixed() -> Tensor:
        found = certify(model, x_fast, SIGMA, n=votes)
        return torch.from_numpy((found.prediction == labels) & (found.radius >= RADIUS))

    ways = {OURS: ours, f"N = {votes:,}": fixed}
    return Job(name, _on(x, votes), ways, _mean, "both ours; the same guarantee")


def epoch_job(
    name: str, model: nn.Module, images: Tensor, labels: Labels, device: torch.device
) -> Job:
    """One epoch of adversarial training at the report's batch size, from the same weights.

    Ours is ``rvlib.training.fit`` on stored images.  The loop is given the same batches in the same
    order, ready made.
    """
    fast, plain = _both(model)
    objective, lr = adversarial(ATTACKS["pgd-linf"]), LEARNING_RATE / 10
    order = torch.randperm(len(images), generator=stream("cpu", 0, "order"))
    x, y = to_float(images).to(device).contiguous(), labels.to(device)
    batches = [(x[at], y[at]) for at in order.to(device).split(BATCH_SIZE)]

    def ours() -> Tensor:
        trained = copy.deepcopy(fast)
        fit(
            trained,
            objective,
            (images, labels),
            epochs=1,
            batch_size=BATCH_SIZE,
            lr=lr,
            momentum=MOMENTUM,
            device=device,
            log=lambda line: None,
        )
        return _answers(trained, x)

    def loop() -> Tensor:
        trained = copy.deepcopy(plain)
        rates = lr, MOMENTUM
        plain_adversarial_epoch(trained, batches, LINF, PGD_STEPS, LINF_STEP_SIZE, *rates)
        return _answers(trained, x)

    return Job(name, _on(x), {OURS: ours, "plain loop": loop}, _right(y))


def _on(x: Images, votes: int | None = None) -> str:
    """Say what a job is done on."""
    return f"{len(x)} images" + (f", {votes:,} votes each" if votes else "")


def _both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Lend the network in our memory layout, and a copy in PyTorch's own for the peers."""
    return model, copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def _peers(
    model: nn.Module, x: Images, y: Labels, threat: Ball, step: float, batch: int | None = None
) -> dict[str, Way]:
    parts = list(zip(x.split(batch or len(x)), y.split(batch or len(x)), strict=True))

    def way(attack: Attack) -> Way:
        return lambda: torch.cat([_answers(model, attack(model, *part)) for part in parts])

    return {name: way(a) for name, a in peer_attacks(threat, PGD_STEPS, step).items()}


def _stands(ways: Sequence[Way], y: Labels) -> Way:
    """Make of answers whether they are right, of several ways one after another."""
    return lambda: torch.cat([way() == y for way in ways])


def _answers(model: nn.Module, x: Images) -> Tensor:
    with frozen(model), torch.no_grad():
        return model(x).argmax(1)


def _right(y: Labels) -> Callable[[Tensor], float]:
    def score(answers: Tensor) -> float:
        return 100 * (answers == y).double().mean().item()

    return score


def _mean(stands: Tensor) -> float:
    return 100 * stands.double().mean().item()
