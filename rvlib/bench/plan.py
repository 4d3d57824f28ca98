"""What the benchmark aims at and how much it does, on a CPU and on a GPU."""

from dataclasses import dataclass

from rvlib.attacks.ascent import TILE
from rvlib.recipes import SIGMA

CPU, CUDA = "cpu", "cuda"

RADIUS = 0.25
BEST_LOOP_BATCH = 100
"""Copies in a batch that Cohen et al.'s loop was quickest with on a CPU."""

PGD = "PGD-10 {norm}, {network}"
TILES = f"PGD-10 {{norm}}, LeNet, theirs in batches of {TILE}"
BFLOAT16 = "{job}, ours in bfloat16"
UNDEFENDED = "robust accuracy, undefended LeNet"
ROBUST = "robust accuracy, robust LeNet"
SWEEP = "eight radii, robust LeNet"
SOUND = "sound votes, LeNet"
VOTES = "votes, {network}"
BATCHES = f"votes, LeNet, the loop in batches of {BEST_LOOP_BATCH}"
CERTIFICATES = "certificates, LeNet"
AT_RADIUS = f"certified at radius {RADIUS}, LeNet"
EPOCH = "an epoch of PGD-10 training, {network}"

GOALS: dict[str, dict[str, float | None]] = {
    PGD.format(norm="l∞", network="LeNet"): {CPU: 1.8, CUDA: 2.0},
    TILES.format(norm="l∞"): {CPU: None, CUDA: None},
    PGD.format(norm="l∞", network="ResNet-18"): {CPU: 1.0, CUDA: 2.0},
    BFLOAT16.format(job=PGD.format(norm="l∞", network="ResNet-18")): {CPU: 1.8, CUDA: 2.0},
    PGD.format(norm="l2", network="LeNet"): {CPU: 1.8, CUDA: 2.0},
    TILES.format(norm="l2"): {CPU: None, CUDA: None},
    PGD.format(norm="l2", network="ResNet-18"): {CPU: 1.0, CUDA: 2.0},
    BFLOAT16.format(job=PGD.format(norm="l2", network="ResNet-18")): {CPU: 1.8, CUDA: 2.0},
    UNDEFENDED: {CPU: 4.0, CUDA: 4.0},
    ROBUST: {CPU: 1.5, CUDA: 1.5},
    SWEEP: {CPU: 3.0, CUDA: 3.0},
    VOTES.format(network="LeNet"): {CPU: 10.0, CUDA: 10.0},
    BATCHES: {CPU: None, CUDA: None},
    SOUND: {CPU: 1.0, CUDA: 1.0},
    CERTIFICATES: {CPU: 10.0, CUDA: 10.0},
    VOTES.format(network="ResNet-18"): {CPU: None, CUDA: 10.0},
    BFLOAT16.format(job=VOTES.format(network="ResNet-18")): {CPU: None, CUDA: 10.0},
    AT_RADIUS: {CPU: 10.0, CUDA: 10.0},
    EPOCH.format(network="LeNet"): {CPU: 1.5, CUDA: 3.0},
    EPOCH.format(network="ResNet-18"): {CPU: 1.5, CUDA: 3.0},
}
"""By job: how many times faster than the fastest other way, None where no goal was set."""

MODELS = "all models of Table 1 from nothing"
TEST_SET = f"the test set certified, LeNet, σ = {SIGMA:g}"

SECONDS = {MODELS: 120.0, TEST_SET: 60.0}
"""By job that only a GPU does: within how many seconds, on one of the H200 class."""


@dataclass(frozen=True)
class Sizes:
    """How many images and votes; a pair is images and votes of each."""

    resnet_attacked: int
    resnet_trained: int
    swept: int
    voted: tuple[int, int]
    certificates: tuple[int, int]
    resnet_voted: tuple[int, int]
    at_radius: tuple[int, int]
    """Here the votes are those of the fixed number, and the most of the sequential way."""
    test_set: tuple[int, int] | None
    """None: the jobs that only a GPU does are left out."""


SIZES = {
    CPU: Sizes(
        resnet_attacked=32,
        resnet_trained=32,
        swept=256,
        voted=(128, 1000),
        certificates=(48, 10_000),
        resnet_voted=(8, 200),
        at_radius=(24, 100_000),
        test_set=None,
    ),
    CUDA: Sizes(
        resnet_attacked=1024,
        resnet_trained=1024,
        swept=1024,
        voted=(128, 1000),
        certificates=(48, 10_000),
        resnet_voted=(4, 10_000),
        at_radius=(24, 100_000),
        test_set=(10_000, 100_000),
    ),
}
"""By kind of device."""
