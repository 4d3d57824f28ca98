"""rvlib.experiments: the report's numbers, and recipes that make what they say."""

import dataclasses
import importlib
import json
import linecache
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rvlib import experiments as ex
from rvlib.attacks import autoattack, fgsm, margin, pgd, smoothed_pgd
from rvlib.modern import COLUMNS, MODERN, SMOOTHED_COLUMN, TODAY
from rvlib.objectives import adversarial, gaussian, mixed, standard
from rvlib.threat_models import L2, Linf, PixelL2

BALL = f"linf {8 / 255:g}"
ATTACKS: dict[str, Any] = {  # ball, steps, their length, random start, restarts, and what else
    "natural": ("-", 0, 0, False, 1, {}),
    "fgsm": ("linf 0.03", 0, 0, False, 1, {}),
    "pgd-linf": ("linf 0.03", 10, 0.02, False, 1, {}),
    "pgd-pixel-l2": ("pixel-l2 0.045", 10, 0.03, False, 1, {}),
    "pgd-l2-small": ("l2 0.045", 10, 0.01125, False, 1, {}),
    "pgd-l2": ("l2 0.5", 10, 0.125, False, 1, {}),
    "pgd-linf-50x5": ("linf 0.03", 50, 0.0015, True, 5, {}),
    "pgd-20-linf-8": (BALL, 20, 1 / 255, True, 1, {}),
    "ensemble-linf-8": (BALL, 0, 0, False, 1, {"version": "fast"}),
    "pgd-20-l2": ("l2 0.5", 20, 0.0625, True, 1, {}),
    "ensemble-l2": ("l2 0.5", 0, 0, False, 1, {"version": "fast"}),
    "autoattack-linf-8": (BALL, 0, 0, False, 1, {"version": "standard"}),
    "vote-fgsm": ("linf 0.03", 1, 0.03, False, 1, {"draws": 16, "sigma": 0.25}),
    "vote-pgd-linf": ("linf 0.03", 20, 0.00375, False, 1, {"draws": 16, "sigma": 0.25}),
    "vote-pgd-pixel-l2": ("pixel-l2 0.045", 20, 0.005625, False, 1, {"draws": 16, "sigma": 0.25}),
    "vote-pgd-l2": ("l2 0.5", 20, 0.0625, False, 1, {"draws": 16, "sigma": 0.25}),
}


def test_the_attacks_are_the_reports():
    assert (Linf(0.03), PixelL2(0.045), L2(0.5)) == (ex.LINF, ex.PIXEL_L2, ex.TRUE_L2)
    kinds = {"fgsm": fgsm, "pgd": pgd, "vote": smoothed_pgd}
    for name, (ball, steps, step_size, random_start, restarts, more) in ATTACKS.items():
        attack: Any = ex.find_attack(name)
        assert attack is ex.natural or attack.func is kinds.get(name.split("-")[0], autoattack)
        numbers = {"steps": steps, "step_size": pytest.approx(step_size)}
        numbers |= {"random_start": random_start, "restarts": restarts, "sigma": None}
        record = ex.attack_record(name, attack)
        assert record == {"name": name, "threat": ball} | numbers | more
    assert list(ex.ATTACKS) == [*ex.REPORT_ATTACKS, *ex.FURTHER_ATTACKS] == [*ATTACKS][:7]
    assert list(ex.STANDARD_ATTACKS) == [*ATTACKS][7:11]
    assert list(ex.VOTE_ATTACKS) == [*ATTACKS][12:]
    assert set(ex.VOTE_READING) <= {"natural", *ex.VOTE_ATTACKS}
    cells = ex.standard_cells()
    assert len(cells) == len(set(cells)) == 6 * 5
    assert {name for name, _ in cells} == {*ex.DEFENCES, "pgd-l2-at"}


def test_the_recipes_are_the_reports():
    for name, recipe in ex.RECIPES.items():
        lr = 0.001 if name == ex.SLOWER else 0.01
        assert recipe.name == name
        numbers = (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum, recipe.network)
        assert numbers == (30, 32, lr, 0.9, "lenet")
        assert recipe.select == (recipe.attacks[0] if recipe.attacks else "natural")
        probe = recipe.attacks[0] if recipe.attacks else "pgd-linf"
        assert recipe.probes == {"natural": ex.natural, probe: ex.ATTACKS[probe]}
    assert {*ex.DEFENCES, *ex.FURTHER} <= {*ex.RECIPES}
    assert (ex.SIGMAS, ex.SIGMA, ex.ALPHA, ex.N0) == ((0.12, 0.25, 0.5, 1.0), 0.25, 0.001, 100)
    assert ex.NOISE_OF["smoothed-0.25"] == 0.25


@pytest.mark.parametrize("name", ex.RECIPES)
def test_a_recipe_minimises_what_it_says(name):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y, recipe = torch.arange(4), ex.RECIPES[name]
    attacks = [ex.ATTACKS[a] for a in recipe.attacks]
    expected = {
        **{"standard": lambda: standard, "gaussian": lambda: gaussian(float(name[9:]))},
        **{"adversarial": lambda: adversarial(attacks[0]), "mixed": lambda: mixed(attacks)},
    }[recipe.objective]()
    model = recipe.build(0)
    one, other = (
        o(model, x, y, torch.Generator().manual_seed(0)).value
        for o in (recipe.make_objective(), expected)
    )
    assert torch.equal(one, other)
    assert recipe.record()["name"] == name


def test_the_modern_recipes():
    small = [MODERN[f"resnet20-{kind}"] for kind in ("gaussian-0.50", "consistency-0.50")]
    assert [r.epochs for r in small] == [30, 30]  # the public per-image logs are of 90 and 150
    assert {(r.batch_size, r.lr, r.momentum, r.weight_decay) for r in small} == {
        (256, 0.1, 0.9, 1e-4)
    }
    weights = {r.sigma: r.weight for r in MODERN.values() if r.objective == "consistency"}
    assert weights == {0.5: 10, 0.25: 20}
    large = MODERN["resnet18-nuat"]
    assert (large.batch_size, large.lr, large.weight_decay, large.weight) == (128, 0.1, 5e-4, 4)
    assert (large.label_smoothing, large.average, large.bfloat16) == (0.4, 0.999, True)
    for name, recipe in MODERN.items():
        assert recipe.name == name
        assert name.startswith(recipe.network)
        # Neither chosen nor trained on the images of any table.
        assert (recipe.split, recipe.selection) == ("train-rest", "selection")
        assert recipe.ships_best
        assert ex.find_recipe(name) is recipe
        if recipe.sigma:
            assert (list(recipe.probes), recipe.select) == (["natural"], "noisy")
        else:
            probe = ex.attack_record("", recipe.probes["pgd-8"])
            assert (probe["threat"], probe["steps"]) == (f"linf {8 / 255:g}", 10)
            assert recipe.select == ("natural" if recipe.objective == "standard" else "pgd-8")


def test_the_modern_columns_are_the_reports_defences():
    same = ("objective", "sigma", "attacks", "network", "epochs", "probes", "select")
    for name, column in zip(ex.DEFENCES, COLUMNS.values(), strict=True):
        report = ex.RECIPES[name]
        assert [getattr(column, key) for key in same] == [getattr(report, key) for key in same]
        assert (column.split, column.selection) == ("train-rest", "selection")
        assert column.title == f"{ex.title(name)}, modern training" == ex.title(column.name)
        assert ex.find_recipe(column.name) is column
        assert column.fit_options()["average"] == 0.999
    base = ex.network_of(SMOOTHED_COLUMN)
    assert ex.network_of("noisy-twice-0.20") == ex.network_of("noisy-0.20") == "gaussian-0.20"
    assert ex.network_of("noisy-student") == "noisy-student"  # somebody's own
    assert COLUMNS[base].sigma == ex.NOISE_OF[SMOOTHED_COLUMN] == ex.SIGMA


@pytest.mark.parametrize("name", ["three-steps", "one-cycle"])
def test_learning_rates_of_the_modern_recipes(name):
    recipe = next(r for r in MODERN.values() if r.schedule == name)
    weight = [torch.nn.Parameter(torch.zeros(1))]
    options = recipe.fit_options()
    optimizer = options["optimizer"](weight)
    assert optimizer.defaults["nesterov"]
    assert optimizer.defaults["weight_decay"] == recipe.weight_decay
    scheduler, rates = options["schedule"](optimizer, 30), []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    if name == "three-steps":
        expected = [recipe.lr] * 10 + [recipe.lr / 10] * 10 + [recipe.lr / 100] * 10
        assert rates == pytest.approx(expected)
    else:
        assert max(rates) == pytest.approx(recipe.lr)
        assert 8 <= rates.index(max(rates)) <= 9
        assert max(rates[0], 10 * rates[-1]) < 0.05 * recipe.lr


@pytest.mark.parametrize("name", TODAY)
def test_a_modern_recipe_takes_a_step_on_its_objective(name):
    recipe = TODAY[name]
    model = recipe.build(0).eval()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    loss, logits = recipe.make_objective()(model, x, torch.arange(4), generator)
    assert torch.isfinite(loss)
    assert logits.shape == (4, 10)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_initial_weights_depend_on_the_seed_alone():
    recipe, before = ex.RECIPES["standard"], torch.get_rng_state()
    one, same, other = recipe.build(0), recipe.build(0), recipe.build(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0].weight, same[0].weight)  # type: ignore[index]
    assert not torch.equal(one[0].weight, other[0].weight)  # type: ignore[index]


def test_a_record_of_any_attack_is_plain():
    options: dict[str, Any] = {"steps": np.int64(3), "loss": margin, "generator": None}
    attack = partial(pgd, threat=L2(1.0), **options)
    record = ex.attack_record("mine", attack)
    assert (record["loss"], record["steps"], record["threat"]) == ("margin", 3, "l2 1")
    record = ex.attack_record("object", partial(attack, ball=L2(0.5)))
    assert json.loads(json.dumps(record))["ball"] == ["L2", {"eps": 0.5}]
    record = ex.attack_record("layer", partial(attack, loss=nn.CrossEntropyLoss()))
    assert record["loss"] == "CrossEntropyLoss()"
    record = ex.attack_record(
        "x", partial(attack, loss=partial(cross_entropy, label_smoothing=0.1))
    )
    assert record["loss"] == ["cross_entropy", [], {"label_smoothing": 0.1}]  # in every process
    assert ex.attack_record("plain", lambda model, x, y: x)["threat"] == "-"


def test_profiles():
    assert list(ex.PROFILES) == ["smoke", "lesson", "course", "full"]
    assert [p.trains for p in ex.PROFILES.values()] == [False, False, False, True]
    assert [p.reads_published for p in ex.PROFILES.values()] == [False, True, False, False]
    full = ex.PROFILES["full"]
    assert (full.heldout, full.test, full.votes, full.ns[-1]) == (1024, 10_000, 1000, 100_000)
    models = full.models()
    assert len(models) == len(set(models)) == 26
    grid = {(f"gaussian-{s:.2f}", seed) for s in (0.2, 0.25, 0.35, 0.45, 0.5) for seed in range(3)}
    assert set(full.trained()) == {*models, *grid}
    assert ex.find_profile("course").trained() == []
    assert models[:10] == [(name, 0) for name in ex.RECIPES]
    cells = ex.table1_cells(full)
    assert len(cells) == 5 * 7 + 9
    assert all(defence in ex.TITLES and attack in ex.TITLES for defence, attack in cells)


def attack_of(eps):
    """An attack as somebody types it, and types it again with another number."""
    lines = ["def mine(model, x, y):", f"    return x + {eps}"]
    filename, space = f"<typed {eps}>", dict[str, Any]()
    linecache.cache[filename] = (0, None, [f"{line}\n" for line in lines], filename)
    exec(compile("\n".join(lines), filename, "exec"), space)
    return space["mine"]


def test_another_attack_of_the_same_name_is_another_one(monkeypatch):
    kinds: list[Any] = [
        partial(fgsm, threat=ex.LINF),
        partial(pgd, threat=ex.LINF),
        lambda model, x, y: x,
        lambda model, x, y: x + 0 * y,
        *(attack_of(eps) for eps in (0.01, 0.02)),
    ]
    records = []
    for attack in kinds:
        monkeypatch.setitem(ex.ATTACKS, "mine", attack)
        records.append(ex.attack_record("mine", attack))
    assert len({str(record) for record in records}) == len(kinds)
    assert json.loads(json.dumps(records)) == records
    assert "function" not in ex.attack_record("fgsm", ex.ATTACKS["fgsm"])


def test_what_an_attack_uses_makes_it_another_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    records = []
    for far in (0.01, 0.02):
        (tmp_path / "attack_of_mine.py").write_text(
            f"class Mine:\n    def __call__(self, model, x, y):\n        return move(x)\n"
            f"def move(x):\n    return x + {far}\n"
        )
        linecache.clearcache()
        sys.modules.pop("attack_of_mine", None)
        attack = importlib.import_module("attack_of_mine").Mine()
        monkeypatch.setitem(ex.ATTACKS, "mine", attack)
        records.append(ex.attack_record("mine", attack))
    assert records[0] != records[1]


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="'adverserial'"):
        dataclasses.replace(ex.RECIPES["standard"], objective="adverserial").make_objective()


@pytest.mark.parametrize("find", [ex.find_attack, ex.find_recipe, ex.find_profile])
def test_unknown_names_are_refused_with_the_known_ones(find):
    with pytest.raises(ValueError, match=r"unknown \w+ 'nothing': choose from \w[^\n]+$"):
        find("nothing")
