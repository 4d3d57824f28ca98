"""rvlib.report.hypotheses: a combination that is planted is found, counted and judged by hand."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from rvlib import experiments as ex
from rvlib.attacks import smoothed_pgd
from rvlib.pipeline import Accuracy, Run, repository
from rvlib.report import hypotheses as hyp
from rvlib.smoothing import sample_under_noise, vote

N = 1024


def made_up_table():
    """Counts that differ between all networks, attacks and ways to answer."""
    rng, lines = np.random.default_rng(0), []
    for sigma, attack, seed, twice in ex.grid_cells():
        line = {"sigma": sigma, "seed": seed, "attack": attack, "n": N}
        line["noise"] = "twice" if twice else "once"
        line |= {"plain": round(rng.uniform(0.05, 0.9) * N), "one_draw": rng.uniform(0, 1) * N}
        for n in ex.GRID_VOTES:
            answered = int(rng.uniform(0.5, 1) * N)
            line |= {f"answered_{n}": answered, f"right_{n}": int(rng.uniform(0, 1) * answered)}
            line[f"leads_{n}"] = int(rng.uniform(0, 1) * N)
        lines.append(line)
    table, network = pd.DataFrame(lines), ["sigma", "attack", "noise"]
    counts = table.columns.difference([*network, "seed", "n"])
    # Training seeds of one network are alike.
    alike = table.groupby(network)[counts].transform("first")
    table[counts] = alike.add(table["seed"], axis=0)
    return table


TABLE = made_up_table()


def percent(table, h, attack):
    """Mean over the seeds, read from the table in another way."""
    rows = table[(table["sigma"] == h.sigma) & (table["noise"] == h.noise)]
    name = {"pgd-linf": h.linf, "pgd-pixel-l2": h.pixel_l2}.get(attack, attack)
    name += "-through-noise" if h.gradients == "noisy" and attack != "natural" else ""
    rows = rows[rows["attack"] == name]
    assert len(rows) == 3
    if not h.answer.startswith("vote"):
        return 100 * (rows["plain" if h.answer == "plain" else "one_draw"] / rows["n"])
    n = h.answer.split()[-1]
    if h.abstentions == "none":
        return 100 * rows[f"leads_{n}"] / rows["n"]
    below = rows[f"answered_{n}"] if h.abstentions == "left out" else rows["n"]
    return 100 * rows[f"right_{n}"] / below


PLANTED = list(hyp.grid())[::89]


@pytest.mark.parametrize("k", range(0, len(PLANTED), 2))
def test_a_planted_combination_is_found(k, monkeypatch):
    planted = dict(zip(hyp.COLUMNS, (PLANTED[k], PLANTED[k - 1]), strict=True))  # one a column
    printed = {
        column: {a: percent(TABLE, h, a).mean() for a in ex.REPORT_ATTACKS}
        for column, h in planted.items()
    }
    for column, values in printed.items():
        monkeypatch.setitem(ex.REPORT_TABLE1, column, values)
    found = hyp.hypotheses(TABLE)
    assert len(found) == 2 * 800
    for column, h in planted.items():
        best = found[found["column"] == column].iloc[0]
        wanted = list(printed[column].values())
        assert best[list(ex.REPORT_ATTACKS)].tolist() == pytest.approx(wanted)
        assert abs(best["errors_off"]) < 1e-9
        # Step and radius of an attack that the column does not use cannot be told apart: none here.
        assert hyp.likeliest(found, column) == h


def test_the_likelihood_by_hand():
    chosen = {"answer": "vote of 400", "abstentions": "left out", "noise": "twice"}
    chosen |= {"gradients": "noisy", "linf": "pgd-linf-0.031", "pixel_l2": "pgd-pixel-l2"}
    found, column = hyp.hypotheses(TABLE), hyp.COLUMNS[0]
    line = found[found["column"] == column]
    for name, value in (chosen | {"sigma": 0.35}).items():
        line = line[line[name] == value]
    (line,) = line.to_dict("records")
    off, errors = {}, {}
    for attack, printed in ex.REPORT_TABLE1[column].items():
        each = [percent(TABLE, hyp.Hypothesis(s, **chosen), attack) for s in ex.GRID_SIGMAS]
        between_seeds = np.mean([np.var(values, ddof=1) for values in each])
        p, h = each[2].mean() / 100, hyp.Hypothesis(0.35, **chosen)
        n = np.mean([answered for _, answered in hyp.Counts(TABLE)(h, attack)])
        assert n < N
        errors[attack] = np.sqrt(between_seeds * 4 / 3 + 1e4 * 2 * p * (1 - p) / n)
        off[attack] = 100 * p - printed
    expected = sum(norm.logpdf(off[a], scale=errors[a]) for a in off)
    assert line["log_likelihood"] == pytest.approx(expected)
    worst = max(off, key=lambda a: abs(off[a] / errors[a]))
    assert line["worst"] == worst
    assert line["points"] == pytest.approx(off[worst])
    assert line["errors_off"] == pytest.approx(off[worst] / errors[worst])


def test_nothing_right_is_no_certainty():
    found = hyp.hypotheses(TABLE.assign(plain=0))
    assert np.isfinite(found["log_likelihood"]).all()


def test_right_answers_by_hand():
    frame = pd.DataFrame({"label": [1, 2, 3], "prediction": [1, 0, 3], "hits": [1000, 500, 0]})
    for n in ex.GRID_VOTES:
        frame = frame.assign(**{f"leader_{n}": [1, 2, 0], f"answer_{n}": [1, -1, 0]})
    found = hyp._right_answers(frame)
    assert (found["n"], found["plain"], found["one_draw"]) == (3, 2, 1.5)
    for n in ex.GRID_VOTES:
        assert (found[f"right_{n}"], found[f"answered_{n}"], found[f"leads_{n}"]) == (1, 2, 2)


@pytest.mark.parametrize("twice", [False, True])
def test_rows_under_noise_are_votes_on_the_attacked_images(tmp_path, twice):
    run = replace(Run.open("full", "cpu"), out=tmp_path, models=repository() / "report" / "models")
    run = replace(run, profile=replace(run.profile, heldout=6), log=lambda line: None)
    frame = run.under_noise(0.25, "fgsm", 1, twice).frame.astype("int64")
    x, y = run.images(6)
    network = run.model("gaussian-0.25", 1)
    x_adv = ex.ATTACKS["fgsm"](network, x, y)
    assert frame["prediction"].tolist() == network(x_adv).argmax(1).tolist()
    sigma = 0.25 * (2**0.5 if twice else 1)
    for n in ex.GRID_VOTES:
        drawn = sample_under_noise(network, x_adv, sigma, n, purpose="prediction")
        assert frame[f"leader_{n}"].tolist() == drawn.argmax(1).tolist()
        assert frame[f"answer_{n}"].tolist() == vote(drawn, ex.ALPHA).tolist()
    assert frame["hits"].tolist() == drawn[torch.arange(6), y].tolist()


def test_attacks_of_the_grid():
    find: Any = ex.grid_attack
    assert find("pgd-linf", 0.25) is ex.ATTACKS["pgd-linf"]
    assert find("pgd-linf-0.031", 0.25).keywords["threat"].eps == 0.031
    assert find("pgd-pixel-l2-step-0.02", 0.25).keywords["step_size"] == 0.02
    for name, steps, size in (("fgsm", 1, 0.03), ("pgd-linf-0.031", 10, 0.02)):
        noisy = find(f"{name}-through-noise", 0.35)
        assert noisy.func is smoothed_pgd
        options = {k: noisy.keywords[k] for k in ("sigma", "draws", "steps", "step_size")}
        assert options == {"sigma": 0.35, "draws": 1, "steps": steps, "step_size": size}
    with pytest.raises(ValueError, match="unknown attack 'pgd-l3'"):
        find("pgd-l3", 0.25)


def test_networks_are_attacked_as_they_are_deployed():
    def accuracy(defence, attack, *, seed):
        return Accuracy(N, 10 * seed + len(attack), 0, "-")

    run: Any = SimpleNamespace(seeds=lambda name: range(2), accuracy=accuracy)
    for defence, attack in (("smoothed-0.25", "vote-pgd-linf"), ("gaussian-0.25", "pgd-linf")):
        right = [(len(attack), N), (10 + len(attack), N)]
        assert hyp._measured(run, defence, "pgd-linf") == right


def test_the_published_table_agrees_with_the_published_rows():
    table = hyp.noise_table(Run.open("lesson", "cpu"))
    run = Run.open("lesson", "cpu")
    assert len(table) == len(list(ex.grid_cells()))
    plain = table[(table["sigma"] == ex.SIGMA) & (table["noise"] == "once")]
    for attack, seed in itertools.product(ex.REPORT_ATTACKS, range(3)):
        (line,) = plain[(plain["attack"] == attack) & (plain["seed"] == seed)].to_dict("records")
        cell = run.accuracy(ex.gaussian_name(ex.SIGMA), attack, seed=seed)
        assert (line["plain"], line["n"]) == (cell.correct, cell.n)
    for n in ex.GRID_VOTES:
        assert (table[f"right_{n}"] <= table[f"leads_{n}"]).all()
        assert (table[f"answered_{n}"] <= table["n"]).all()
