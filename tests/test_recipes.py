"""rvlib.recipes: the report's numbers, and records that define what they name."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib import recipes
from rvlib.data import CIFAR10_DIGEST
from rvlib.models import NETWORKS, LeNet
from rvlib.recipes import ATTACKS, RECIPES, find_attack, find_recipe, on_the_vote
from rvlib.threat_models import L2, Linf, PixelL2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- the report's constants -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "threat", "steps", "step_size"),
    [
        ("natural", None, 0, 0.0),
        ("fgsm", Linf(0.03), 0, 0.0),
        ("pgd-linf", Linf(0.03), 10, 0.02),
        ("pgd-pixel-l2", PixelL2(0.045), 10, 0.03),
    ],
)
def test_attacks_of_table_1(name, threat, steps, step_size):
    attack = ATTACKS[name]
    assert (attack.threat, attack.steps, attack.step_size) == (threat, steps, step_size)
    assert not attack.random_start  # all start at the image
    assert attack.restarts == 1
    assert attack.sigma is None


def test_attacks_of_table_1_are_its_columns():
    assert recipes.REPORT_ATTACKS == ("natural", "fgsm", "pgd-linf", "pgd-pixel-l2")
    assert (*recipes.REPORT_ATTACKS, *recipes.FURTHER_ATTACKS) == tuple(ATTACKS)


def test_further_attacks_use_the_standard_norms():
    assert ATTACKS["pgd-l2-small"].threat == L2(0.045)
    assert ATTACKS["pgd-l2"].threat == L2(0.5)
    assert ATTACKS["pgd-linf-50x5"].threat == Linf(0.03)
    assert (ATTACKS["pgd-linf-50x5"].steps, ATTACKS["pgd-linf-50x5"].restarts) == (50, 5)
    assert ATTACKS["pgd-linf-50x5"].random_start


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_training_of_every_model(recipe):
    training = (recipe.network, recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum)
    lr = 0.001 if recipe.name == recipes.SLOWER else 0.01
    assert training == ("lenet", 30, 32, lr, 0.9)
    assert isinstance(recipe.build(0), LeNet)


@pytest.mark.parametrize(
    ("name", "objective", "sigma", "attacks"),
    [
        ("standard", "standard", None, ()),
        ("gaussian-0.12", "gaussian", 0.12, ()),
        ("gaussian-0.25", "gaussian", 0.25, ()),
        ("gaussian-0.50", "gaussian", 0.5, ()),
        ("gaussian-1.00", "gaussian", 1.0, ()),
        ("pgd-linf-at", "adversarial", None, ("pgd-linf",)),
        ("pgd-pixel-l2-at", "adversarial", None, ("pgd-pixel-l2",)),
        ("pgd-l2-at", "adversarial", None, ("pgd-l2",)),
        ("mixed-at", "mixed", None, ("pgd-linf", "pgd-pixel-l2")),
        ("standard-lr-0.001", "standard", None, ()),
    ],
)
def test_models(name, objective, sigma, attacks):
    recipe = RECIPES[name]
    assert (recipe.objective, recipe.sigma, recipe.attacks) == (objective, sigma, attacks)


def test_there_are_no_other_models():
    assert len(RECIPES) == 10


def test_smoothing_is_that_of_cohen_et_al():
    assert recipes.SIGMAS == (0.12, 0.25, 0.5, 1.0)
    assert (recipes.SIGMA, recipes.ALPHA, recipes.N0) == (0.25, 0.001, 100)


# ---- attacks --------------------------------------------------------------------------------

EVERY_ATTACK = [*ATTACKS.values(), *(on_the_vote(a, 0.25) for a in ATTACKS.values() if a.threat)]


@pytest.mark.parametrize("attack", EVERY_ATTACK, ids=lambda attack: attack.name)
def test_every_attack_runs_and_stays_in_its_ball(attack, batch):
    x, y = batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    x_adv = attack(net, x, y, seeded())
    assert torch.equal(attack(net, x, y, seeded()), x_adv)
    if attack.threat is None:
        assert torch.equal(x_adv, x)
    else:
        length = attack.threat.norm(x_adv - x)
        assert (length <= attack.threat.eps + 1e-6).all()
        assert (length > 0.5 * attack.threat.eps).all()
        assert (F.cross_entropy(net(x_adv), y, reduction="none") > 0).all()


def test_attacks_hand_their_settings_on(monkeypatch):
    """Each setting arrives at the attack that it belongs to."""
    calls = []

    def spy(name):
        def attack(*arguments, **options):
            calls.append((name, arguments, options))
            return "x_adv"

        return attack

    for name in ("fgsm", "pgd", "smoothed_pgd"):
        monkeypatch.setattr(recipes, name, spy(name))
    for attack in (
        ATTACKS["fgsm"],
        ATTACKS["pgd-linf-50x5"],
        ATTACKS["pgd-pixel-l2"],
        on_the_vote(ATTACKS["pgd-l2"], 0.25),
    ):
        assert attack("model", "x", "y", "generator") == "x_adv"  # type: ignore[arg-type]
    start = ("model", "x", "y")
    given = {"generator": "generator"}
    one = given | {"steps": 50, "step_size": 2.5 * 0.03 / 50, "random_start": True, "restarts": 5}
    two = given | {"steps": 10, "step_size": 0.03, "random_start": False, "restarts": 1}
    steps, draws = recipes.SMOOTHED_STEPS, recipes.SMOOTHED_DRAWS
    three = given | {"steps": steps, "step_size": 2.5 * 0.5 / steps, "sigma": 0.25, "draws": draws}
    assert calls == [
        ("fgsm", (*start, Linf(0.03)), {}),
        ("pgd", (*start, Linf(0.03)), one),
        ("pgd", (*start, PixelL2(0.045)), two),
        ("smoothed_pgd", (*start, L2(0.5)), three),
    ]


def test_attack_on_the_vote_keeps_the_ball():
    attack = on_the_vote(ATTACKS["pgd-pixel-l2"], 0.5)
    assert attack.name == "vote-pgd-pixel-l2"
    assert attack.threat == PixelL2(0.045)
    assert attack.sigma == 0.5
    with pytest.raises(ValueError, match="natural attacks nothing"):
        on_the_vote(ATTACKS["natural"], 0.5)


# ---- objectives -----------------------------------------------------------------------------


def expected_loss(recipe, net, x, y):
    """What the report says that each model minimises, written out."""

    def loss(images):
        return F.cross_entropy(net(images), y)

    attacked = [loss(ATTACKS[name](net, x, y, seeded())) for name in recipe.attacks]
    if recipe.objective == "standard":
        return loss(x)
    if recipe.objective == "gaussian":
        return loss(x + recipe.sigma * torch.empty_like(x).normal_(generator=seeded()))
    if recipe.objective == "adversarial":
        return 0.5 * loss(x) + 0.5 * attacked[0]
    return (loss(x) + attacked[0] + attacked[1]) / 3


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_models_minimise_what_the_report_says(recipe):
    net = recipe.build(0)
    x, y = torch.rand(2, 3, 32, 32, generator=seeded()), torch.tensor([3, 7])
    loss = recipe.make_objective()(net, x, y, seeded())
    torch.testing.assert_close(loss.value, expected_loss(recipe, net, x, y))


def test_noisy_training_needs_its_sigma():
    with pytest.raises(ValueError, match="sigma"):
        recipes.Recipe("silent", "gaussian").make_objective()


def test_the_best_epoch_is_chosen_by_what_is_trained():
    assert (RECIPES["standard"].probe, RECIPES["standard"].select) == ("pgd-linf", "natural")
    assert (RECIPES["gaussian-0.25"].probe, RECIPES["gaussian-0.25"].select) == (
        "pgd-linf",
        "natural",
    )
    for name, recipe in RECIPES.items():
        if recipe.attacks:
            assert recipe.probe == recipe.select == recipe.attacks[0], name


# ---- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_initial_weights_are_drawn_from_the_seed_alone(network):
    recipe = dataclasses.replace(RECIPES["standard"], network=network)
    before = torch.get_rng_state()
    one = recipe.build(0)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert same(recipe.build(0), one)
    assert not same(recipe.build(1), one)


def test_models_of_a_seed_start_alike():
    first, *others = (recipe.build(3) for recipe in RECIPES.values())
    assert all(same(other, first) for other in others)


# ---- records --------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [*RECIPES.values(), *EVERY_ATTACK], ids=lambda n: n.name)
def test_records_survive_json(named):
    record = named.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["name"] == named.name


def test_records_are_all_different():
    for named in (RECIPES.values(), ATTACKS.values()):
        records = [json.dumps(n.record() | {"name": ""}, sort_keys=True) for n in named]
        assert len(set(records)) == len(records)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "mixed"},
        {"sigma": 0.25},
        {"attacks": ("pgd-l2",)},
        {"network": "resnet18"},
        {"epochs": 31},
        {"batch_size": 64},
        {"lr": 0.02},
        {"momentum": 0.8},
    ],
)
def test_every_setting_of_a_model_is_in_its_record(change):
    recipe = RECIPES["pgd-linf-at"]
    assert dataclasses.replace(recipe, **change).record() != recipe.record()


@pytest.mark.parametrize(
    "change",
    [
        {"threat": Linf(0.031)},
        {"threat": PixelL2(0.03)},
        {"threat": L2(0.03)},
        {"steps": 11},
        {"step_size": 0.021},
        {"random_start": True},
        {"restarts": 2},
        {"sigma": 0.25},
    ],
)
def test_every_setting_of_an_attack_is_in_the_records(change, monkeypatch):
    attack = ATTACKS["pgd-linf"]
    model = RECIPES["pgd-linf-at"].record()
    changed = dataclasses.replace(attack, **change)
    assert changed.record() != attack.record()
    monkeypatch.setitem(ATTACKS, "pgd-linf", changed)
    assert RECIPES["pgd-linf-at"].record() != model  # a model's record spells its attacks out


def test_record_names_the_data():
    assert RECIPES["standard"].record()["data"] == CIFAR10_DIGEST


def test_record_of_an_attack_on_the_vote_has_its_noise():
    record = on_the_vote(ATTACKS["pgd-l2"], 0.25).record()
    assert record["sigma"] == 0.25
    assert record["draws"] == recipes.SMOOTHED_DRAWS >= 8
    assert record["steps"] == recipes.SMOOTHED_STEPS >= 10


# ---- names ----------------------------------------------------------------------------------


def test_names_are_keys():
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert all(attack.name == name for name, attack in ATTACKS.items())
    assert [recipes.gaussian_name(sigma) for sigma in recipes.SIGMAS] == [
        name for name in RECIPES if name.startswith("gaussian")
    ]


def test_names_are_found():
    assert find_recipe("mixed-at") is RECIPES["mixed-at"]
    assert find_attack("pgd-linf") is ATTACKS["pgd-linf"]


@pytest.mark.parametrize(("find", "known"), [(find_recipe, RECIPES), (find_attack, ATTACKS)])
@pytest.mark.parametrize("name", ["pgd", "", "Standard", "natural "])
def test_unknown_names_list_the_known_ones(find, known, name):
    with pytest.raises(ValueError, match="unknown") as refusal:
        find(name)
    assert repr(name) in str(refusal.value)
    assert ", ".join(known) in str(refusal.value)
    assert "\n" not in str(refusal.value)
