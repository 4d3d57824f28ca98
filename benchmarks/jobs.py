"""What is timed, on how much, and beside which implementations.

Plain data: this imports neither PyTorch nor rvlib, because a process of the benchmark imports it
before it chooses which checkout's rvlib to load.
"""

import importlib.util
from dataclasses import dataclass, replace

OURS, BASELINE = "rvlib", "baseline"
PEERS = ("torchattacks", "foolbox", "art")
LOOP, COHEN = "plain loop", "Cohen et al.'s loop"
GAUSSIAN, FIXED = "rvlib, Gaussian noise", "rvlib, fixed N"
SEQUENCE = "published sequence"
"""AutoAttack's four attacks, torchattacks' code, at the published settings."""

OTHERS = {
    **{"pgd": PEERS, "robust": PEERS, "radii": PEERS, "small": (LOOP,), "epoch": (LOOP,)},
    **{"votes": (COHEN,), "grid": (GAUSSIAN,), "certificates": (COHEN,)},
    **{"certify": (COHEN,), "image_ids": (COHEN,), "certify_at": (FIXED,)},
    **dict.fromkeys(("standard", "fast"), (SEQUENCE,)),
}
"""Implementations beside ours, by kind of job."""

STEPS = 10
SIGMA, ALPHA, N0 = 0.25, 0.001, 100
RADIUS = 0.25
"""Radius at which certified accuracies are given."""
BATCH, LR, MOMENTUM = 32, 0.001, 0.9
"""Of training."""


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Parameters
    ----------
    name : str
        Its name in the table.
    kind : str
        A key of ``OTHERS``: the function of an implementation that is timed.
    network : str
        Whose weights.
    images : int
        How many images.
    goal : float, optional
        Smallest ratio of the times, theirs to ours, that is aimed at.
    votes : int, default=0
        Votes an image.
    norm : str, default="linf"
        Of an attack.
    batch : int, optional
        Images, or noisy copies, in a batch of the other implementations; all by default.
    bfloat16 : bool, default=False
        Whether ours runs under autocast.
    repeats : int, default=1
        Calls in one timing.
    once : bool, default=False
        Whether it is timed once, without a call before: for calls that take minutes.
    """

    name: str
    kind: str
    network: str
    images: int
    goal: float | None = None
    votes: int = 0
    norm: str = "linf"
    batch: int | None = None
    bfloat16: bool = False
    repeats: int = 1
    once: bool = False

    @property
    def on(self) -> str:
        """How much it is done on, in words."""
        return f"{self.images} images" + (f", {self.votes:,} votes each" if self.votes else "")

    @property
    def balls(self) -> list[tuple[str, float, float]]:
        """Norm, radius and step size of its attacks."""
        if self.kind == "radii":
            return [("linf", k / 255, 2.5 * k / 255 / STEPS) for k in range(1, 9)]
        return [("l2", 0.5, 0.125)] if self.norm == "l2" else [("linf", 0.03, 0.02)]

    @property
    def others(self) -> list[str]:
        """Implementations beside ours; of other libraries, those installed."""
        needs = dict(zip(PEERS, PEERS, strict=True)) | {SEQUENCE: "torchattacks"}
        names = OTHERS[self.kind]
        return [n for n in names if n not in needs or importlib.util.find_spec(needs[n])]


def jobs(device: str = "cpu", quick: bool = False) -> list[Job]:
    """List the rows of the table, in its order; on a GPU some are larger."""
    few, swept, voted, votes = (1024, 1024, 4, 10_000) if device == "cuda" else (32, 256, 8, 200)
    robust, noisy, resnet = "pgd-linf-at", "gaussian-0.25", "resnet18"
    bf16 = "ResNet-18, ours in bfloat16"
    rows = [
        Job("PGD-10 l∞, LeNet", "pgd", robust, 1024, 1.8),
        Job("PGD-10 l∞, LeNet, theirs in batches of 256", "pgd", robust, 1024, batch=256),
        Job("PGD-10 l∞, ResNet-18", "pgd", resnet, few, 1),
        Job(f"PGD-10 l∞, {bf16}", "pgd", resnet, few, 1.8, bfloat16=True),
        Job("PGD-10 l2, LeNet", "pgd", robust, 1024, 1.8, 0, "l2"),
        Job("PGD-10 l2, LeNet, theirs in batches of 256", "pgd", robust, 1024, None, 0, "l2", 256),
        Job("PGD-10 l2, ResNet-18", "pgd", resnet, few, 1, 0, "l2"),
        Job(f"PGD-10 l2, {bf16}", "pgd", resnet, few, 1.8, 0, "l2", bfloat16=True),
        Job("PGD-10 l∞, small network", "small", "small", 32, 0.8, repeats=100),
        Job("robust accuracy, undefended LeNet", "robust", "standard", 1024, 4),
        Job("robust accuracy, robust LeNet", "robust", robust, 1024, 1.5),
        Job("eight radii, robust LeNet", "radii", robust, swept, 3),
        Job("AutoAttack, standard, LeNet", "standard", robust, 512, 2, once=True),
        Job("AutoAttack, fast, LeNet", "fast", robust, 512, 5, once=True),
        Job("AutoAttack, standard, ResNet-18", "standard", resnet, few, 1.1, 0, "l2", once=True),
        Job("AutoAttack, fast, ResNet-18", "fast", resnet, few, 4, 0, "l2", once=True),
        Job(f"AutoAttack, fast, {bf16}", "fast", resnet, few, 4, 0, "l2", bfloat16=True, once=True),
        Job("votes, LeNet", "votes", noisy, 128, 10, 1000, batch=1000),
        Job("votes, LeNet, the loop in batches of 100", "votes", noisy, 128, None, 1000, batch=100),
        Job("votes on the grid, LeNet", "grid", noisy, 128, 1, 1000),
        Job("certificates, LeNet", "certificates", noisy, 48, 10, 10_000, batch=1000),
        Job("certify, one image a call, LeNet", "certify", noisy, 8, 1, 10_000, batch=100),
        Job("certify with image_ids, LeNet", "image_ids", noisy, 8, 1, 10_000, batch=100),
        Job("votes, ResNet-18", "votes", resnet, voted, None, votes, batch=1000),
        Job(f"votes, {bf16}", "votes", resnet, voted, None, votes, batch=1000, bfloat16=True),
        Job(f"certified at radius {RADIUS}, LeNet", "certify_at", noisy, 24, 10, 100_000),
        Job("an epoch of PGD-10 training, LeNet", "epoch", noisy, 1024, 1.5),
        Job("an epoch of PGD-10 training, ResNet-18", "epoch", resnet, few, 1.5),
    ]
    return [_tiny(row) for row in rows] if quick else rows


def _tiny(job: Job) -> Job:
    """Shrink a job until it takes a moment: for tests, not for times."""
    if job.once:
        return replace(job, network="standard", images=16, norm="linf")  # falls at once
    images, votes = (1, 50) if job.network == "resnet18" else (16, 1000)
    images, votes = min(job.images, images), min(job.votes, votes)
    return replace(job, images=images, votes=votes, repeats=1)
