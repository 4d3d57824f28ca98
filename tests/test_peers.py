"""Other libraries on the shipped weights and real images: the same answers, and honest balls."""

from functools import partial

import pytest
import torch
from torch import nn

import rvlib as rv
from benchmarks.others import published
from rvlib.threat_models import L2, Linf
from tests.networks import Wrapped, shipped

COUNT, STEPS = 32, 10

pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs


@pytest.fixture(scope="module")
def images():
    return tuple(part[:COUNT] for part in rv.load("cifar10", "heldout"))


@pytest.fixture(scope="module", params=["standard", "pgd-linf-at"])
def model(request):
    return shipped(request.param)


class Precise(Wrapped):
    """A network whose logits are double: the peers' losses are then computed in that precision.

    In single precision their cross-entropy has no gradient where the network is so sure that the
    probability of the true class rounds to 1, and their attacks fail there; ours has one.
    """

    def forward(self, x):
        return self.network(x).double()


@pytest.fixture
def precise(model):
    return Precise(model).eval()


def ours(threat, **options):
    return partial(
        rv.pgd,
        threat=threat,
        steps=STEPS,
        step_size=threat.eps / 4,
        **({"random_start": False} | options),
    )


def torchattacks_pgd(model, threat, claimed=None, **options):
    library = pytest.importorskip("torchattacks", reason="optional: make test has it")
    kind = library.PGD if isinstance(threat, Linf) else library.PGDL2
    settings = {"eps": threat.eps, "alpha": threat.eps / 4, "steps": STEPS, "random_start": False}
    return rv.from_torchattacks(kind(model, **(settings | options)), claimed or threat)


def foolbox_pgd(model, threat):
    library = pytest.importorskip("foolbox", reason="optional: make test has it")
    kind = library.attacks.LinfPGD if isinstance(threat, Linf) else library.attacks.L2PGD
    attack = kind(abs_stepsize=threat.eps / 4, steps=STEPS, random_start=False)
    return rv.from_foolbox(attack, threat)


def right(model, images, attack):
    return rv.predictions(model, *images, attack) == images[1]


@pytest.mark.parametrize(
    ("model", "theirs", "threat"),
    [
        *[("standard", torchattacks_pgd, Linf(0.03)), ("pgd-linf-at", torchattacks_pgd, L2(0.5))],
        *[("pgd-linf-at", foolbox_pgd, Linf(0.03)), ("standard", foolbox_pgd, L2(0.5))],
    ],
    indirect=["model"],
)
def test_pgd_is_ours_image_by_image(theirs, precise, images, threat):
    attacks = ours(threat), theirs(precise, threat)
    answers = [rv.predictions(precise, *images, attack) for attack in attacks]
    assert (answers[0] != answers[1]).sum() <= 1
    clean = rv.predictions(precise, *images, lambda m, x, y: x)
    assert (answers[1] == clean).double().mean() < 0.9


def test_in_single_precision_what_ours_fails_on_theirs_do_too(model, images):
    """And not the other way round, where the network is sure: see ``Precise``."""
    threat = Linf(0.03)
    stands = right(model, images, ours(threat))
    for theirs in (torchattacks_pgd(model, threat), foolbox_pgd(model, threat)):
        assert (stands & ~right(model, images, theirs)).sum() <= 1


def test_random_starts_are_seeded_and_as_strong_as_ours(precise, images):
    threat = Linf(0.03)
    theirs = torchattacks_pgd(precise, threat, random_start=True)
    state = torch.get_rng_state()
    attacks = (theirs, theirs, ours(threat, random_start=True))
    answers = [right(precise, images, attack) for attack in attacks]
    assert torch.equal(answers[0], answers[1])  # seeded by the batch's address
    assert torch.equal(torch.get_rng_state(), state)
    # Other starts: images that fall from one of them alone are rare.
    assert (answers[0] != answers[2]).sum() <= 1


def test_a_maker_of_attacks_is_called_with_the_network(precise, images):
    library = pytest.importorskip("torchattacks", reason="optional: make test has it")
    theirs = rv.from_torchattacks(partial(library.FGSM, eps=0.03), Linf(0.03))
    found = right(precise, images, theirs)
    assert (found != right(precise, images, partial(rv.fgsm, threat=Linf(0.03)))).sum() <= 1


def test_square_is_as_strong_as_theirs(model, images):
    library = pytest.importorskip("torchattacks", reason="optional: make test has it")
    made = library.Square(model, eps=0.03, n_queries=100, loss="margin")
    attacks = (
        partial(rv.square, queries=100, threat=Linf(0.03)),
        rv.from_torchattacks(made, Linf(0.03)),
    )
    counts = [int(right(model, images, attack).sum()) for attack in attacks]
    # Two random searches: measured 2 % apart, and ours may well be the stronger one.
    assert counts[0] - counts[1] <= 0.06 * COUNT


@pytest.mark.parametrize(
    ("model", "threat"),
    [("pgd-linf-at", Linf(0.03)), ("standard", L2(0.5))],
    indirect=["model"],
    ids=str,
)
def test_the_ensemble_is_theirs_image_by_image(model, images, threat):
    pytest.importorskip("torchattacks", reason="optional: make test has it")
    # Square, the slowest part, took nothing from the others.
    norm = "linf" if isinstance(threat, Linf) else "l2"
    made = published(model, norm, threat.eps, targets=3, steps=25, queries=0)
    theirs = rv.from_torchattacks(made, threat)
    few = images[0][:8], images[1][:8]
    stands = [
        right(model, few, attack) for attack in (partial(rv.autoattack, threat=threat), theirs)
    ]
    assert (stands[0] & ~stands[1]).sum() == 0
    assert (stands[1] & ~stands[0]).sum() <= 1


def test_a_peer_that_goes_further_than_claimed_or_elsewhere_is_refused(model, images):
    liar = torchattacks_pgd(model, Linf(0.031), claimed=Linf(0.03))
    with pytest.raises(ValueError, match="left the ball linf"):
        rv.predictions(model, *images, liar)
    elsewhere = torchattacks_pgd(nn.Flatten(), Linf(0.03))
    with pytest.raises(ValueError, match="another network"):
        rv.predictions(model, *images, elsewhere)
