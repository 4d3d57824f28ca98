"""Peers on the shipped weights and real images: the same answers as ours, and honest balls."""

import pytest
import torch
from torch import nn

from rvlib.attacks import fgsm, pgd, square
from rvlib.data import load_cifar10, to_float
from rvlib.evaluation import from_foolbox, from_torchattacks, predictions
from rvlib.recipes import ATTACKS
from rvlib.report.tables import table1
from rvlib.rows import read_rows, rows_path
from rvlib.stages.measure import Place, measure_attack
from rvlib.stages.run import Run
from rvlib.threat_models import L2, Linf

COUNT = 200
STEPS = 10

pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs


@pytest.fixture(scope="module")
def images():
    return tuple(tensor[:COUNT] for tensor in load_cifar10("heldout"))


@pytest.fixture(scope="module", params=["standard", "pgd-linf-at"])
def model(request):
    return Run.open("course", "cpu").model(request.param)


class Precise(nn.Module):
    """A network whose logits are double: the peers' losses are then computed in that precision.

    In single precision their cross-entropy has no gradient where the network is so sure that the
    probability of the true class rounds to 1, and their attacks fail there; ours has one.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).double()


@pytest.fixture
def precise(model):
    return Precise(model).eval()


@pytest.fixture
def torchattacks():
    return pytest.importorskip("torchattacks", reason="optional: make test has it")


@pytest.fixture
def foolbox():
    return pytest.importorskip("foolbox", reason="optional: make test has it")


def ours(threat):
    def attack(model, x, y, generator):
        return pgd(model, x, y, threat, steps=STEPS, step_size=threat.eps / 4, random_start=False)

    return attack


def right(model, images, attack):
    return predictions(model, images[0], images[1], attack) == images[1]


def assert_same(model, images, one, other):
    """Two attacks lead to the same answers, which are not those without any attack."""
    answers = [predictions(model, images[0], images[1], attack) for attack in (one, other)]
    assert (answers[0] == answers[1]).double().mean() >= 0.99
    with torch.no_grad():
        clean = model(to_float(images[0])).argmax(1)
    assert (answers[1] == clean).double().mean() < 0.9


def of_torchattacks(torchattacks, model, threat, claimed=None):
    kind = torchattacks.PGD if isinstance(threat, Linf) else torchattacks.PGDL2
    options = {"eps": threat.eps, "alpha": threat.eps / 4, "steps": STEPS, "random_start": False}
    return from_torchattacks(kind(model, **options), claimed or threat)


def of_foolbox(foolbox, threat):
    kind = foolbox.attacks.LinfPGD if isinstance(threat, Linf) else foolbox.attacks.L2PGD
    attack = kind(abs_stepsize=threat.eps / 4, steps=STEPS, random_start=False)
    return from_foolbox(attack, threat)


BALLS = pytest.mark.parametrize("threat", [Linf(0.03), L2(0.5)], ids=lambda t: t.name)


@BALLS
def test_torchattacks_pgd_is_ours_image_by_image(torchattacks, precise, images, threat):
    assert_same(precise, images, ours(threat), of_torchattacks(torchattacks, precise, threat))


@BALLS
def test_foolbox_pgd_is_ours_image_by_image(foolbox, precise, images, threat):
    assert_same(precise, images, ours(threat), of_foolbox(foolbox, threat))


def test_accuracies_are_ours(torchattacks, foolbox, precise, images):
    threat = Linf(0.03)
    attacks = [ours(threat), of_torchattacks(torchattacks, precise, threat)]
    attacks.append(of_foolbox(foolbox, threat))
    counts = [int(right(precise, images, attack).sum()) for attack in attacks]
    assert max(counts) - min(counts) <= COUNT // 100


def test_in_single_precision_what_ours_fails_on_theirs_do_too(torchattacks, foolbox, model, images):
    """And not the other way round, where the network is sure: see ``Precise``."""
    threat = Linf(0.03)
    stands = right(model, images, ours(threat))
    for theirs in (of_torchattacks(torchattacks, model, threat), of_foolbox(foolbox, threat)):
        stands_theirs = right(model, images, theirs)
        assert (stands & ~stands_theirs).sum() <= COUNT // 100
        x = to_float(images[0])[stands_theirs & ~stands]
        y = images[1][stands_theirs & ~stands]
        if len(x):
            with torch.no_grad():
                unsure = 1 - model(x).double().softmax(1).gather(1, y[:, None])
            assert unsure.max() < 1e-4


def test_torchattacks_fgsm_is_ours(torchattacks, precise, images):
    threat = Linf(0.03)
    theirs = from_torchattacks(torchattacks.FGSM(precise, eps=threat.eps), threat)
    assert_same(precise, images, lambda m, x, y, g: fgsm(m, x, y, threat), theirs)


def test_random_starts_are_as_strong_as_ours(torchattacks, precise, images):
    threat = Linf(0.03)
    theirs = from_torchattacks(
        torchattacks.PGD(precise, eps=threat.eps, alpha=threat.eps / 4, steps=STEPS), threat
    )

    def with_start(model, x, y, generator):
        step = threat.eps / 4
        return pgd(model, x, y, threat, steps=STEPS, step_size=step, generator=generator)

    state = torch.get_rng_state()
    answers = [right(precise, images, attack) for attack in (theirs, theirs, with_start)]
    assert torch.equal(answers[0], answers[1])  # seeded by the batch's address
    assert torch.equal(torch.get_rng_state(), state)
    # Other starts: images that fall from one of them alone are rare.
    assert (answers[0] != answers[2]).double().mean() <= 0.02


def test_square_is_as_strong_as_theirs(torchattacks, model, images):
    threat, queries = Linf(0.03), 150
    theirs = from_torchattacks(
        torchattacks.Square(model, eps=threat.eps, n_queries=queries, loss="margin"), threat
    )

    def without_gradients(model, x, y, generator):
        return square(model, x, y, threat, queries=queries, generator=generator)

    counts = [int(right(model, images, attack).sum()) for attack in (without_gradients, theirs)]
    # Two random searches: measured 2 % apart, and ours may well be the stronger one.
    assert counts[0] - counts[1] <= 0.05 * COUNT


def test_a_peer_that_goes_further_than_claimed_is_refused(torchattacks, model, images):
    liar = of_torchattacks(torchattacks, model, Linf(0.031), claimed=Linf(0.03))
    with pytest.raises(ValueError, match=r"PGD left the ball linf 0.03: .* 0.001 too far"):
        predictions(model, images[0], images[1], liar)


def test_an_object_of_another_network_is_refused(torchattacks, model, images):
    theirs = of_torchattacks(torchattacks, torch.nn.Flatten(), Linf(0.03))
    with pytest.raises(ValueError, match="PGD was made for another network"):
        predictions(model, images[0], images[1], theirs)


def test_peers_stand_in_the_table_beside_ours(torchattacks, foolbox, tmp_path):
    run, ball = Run.open("course", "cpu"), Linf(0.03)
    place = Place(run.place.models, tmp_path, run.place.device)
    options = {"steps": STEPS, "alpha": 0.0075, "random_start": False}
    theirs = [
        from_torchattacks(
            lambda model: torchattacks.PGD(model, eps=ball.eps, **options), ball, name="ta-pgd"
        ),
        from_foolbox(
            foolbox.attacks.LinfPGD(steps=STEPS, abs_stepsize=0.0075, random_start=False),
            ball,
            name="foolbox-pgd",
        ),
    ]
    measure_attack(place, "pgd-linf-at", 0, ATTACKS["pgd-linf"], "heldout", 64)
    for attack in theirs:
        measure_attack(place, "pgd-linf-at", 0, attack, "heldout", 64)
    cells = [("pgd-linf-at", name) for name in ("pgd-linf", "ta-pgd", "foolbox-pgd")]
    table = table1(tmp_path, "heldout", cells, 64)
    assert {line["threat"] for line in table} == {"linf 0.03"}
    # The same ball on a robust network: within a few images of ours.
    correct = [int(line["correct"]) for line in table]
    assert max(correct) - min(correct) <= 4
    rows = read_rows(rows_path(tmp_path, "heldout", "pgd-linf-at", 0, "ta-pgd"))
    assert rows.head["identity"]["attack"]["origin"].startswith("torchattacks ")
