"""What a run's folder holds for the report: tables, Figure 1, and what the run was."""

import json
from collections import Counter
from typing import Any

import pandas as pd

from rvlib import experiments as ex
from rvlib.data import DATASETS
from rvlib.device import provenance
from rvlib.models.weights import read_record
from rvlib.pipeline import USUAL, Run, measurements
from rvlib.report.figures import draw_figure1, save_figure
from rvlib.report.tables import all_tables, grid, markdown, write_csv
from rvlib.results import atomic_write


def write_tables(run: Run) -> dict[str, pd.DataFrame]:
    """Write every table, Figure 1 and ``run.json`` into ``run.out``.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict of str to DataFrame
        As ``all_tables``.
    """
    tables = all_tables(run)
    for name, table in tables.items():
        write_csv(run.out / "tables" / f"{name}.csv", table)
        if name in ("table1", "table2"):
            content = f"{markdown(grid(table))}\n\n{markdown(table)}\n"
            atomic_write(run.out / "tables" / f"{name}.md", content.encode())
    save_figure(draw_figure1(tables["figure1"]), run.out / "figures" / "figure1")
    atomic_write(run.out / "run.json", f"{json.dumps(facts(run), indent=2)}\n".encode())
    return tables


def facts(run: Run) -> dict[str, Any]:
    """Gather what the printed report says about the run that made it.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict
        Profile, counts, hyper-parameters, digests, and the records of the weights.
    """
    profile = run.profile
    names = ("heldout", "test", "certified", "ns", "votes")
    return {
        "profile": profile.name,
        **{name: getattr(profile, name) for name in names},
        **{"n0": ex.N0, "alpha": ex.ALPHA, "sigma": ex.SIGMA, "sigmas": ex.SIGMAS},
        **{"seeds": profile.seeds, "defences": ex.DEFENCES},
        "attacks": {name: ex.attack_record(name, ex.ATTACKS[name]) for name in profile.attacks},
        **_rows_facts(run),
        "vote_attack": {"draws": ex.SMOOTHED_DRAWS, "steps": ex.SMOOTHED_STEPS},
        "data": DATASETS[ex.DATASET].digest,
        "weights": _records(run),
        **provenance(run.device),
    }


def _records(run: Run) -> dict[str, Any]:
    kept = "sha256,epochs,commit,torch,device,date,best_epoch,best,last".split(",")
    paths = {f"{name} seed {seed}": run.weights(name, seed) for name, seed in run.profile.models()}
    records = {title: read_record(path) for title, path in paths.items() if path.exists()}
    return {title: {key: record[key] for key in kept} for title, record in records.items()}


def _rows_facts(run: Run) -> dict[str, Any]:
    """Say which code measured the rows, in which arithmetic."""
    commits: Counter[str] = Counter()
    function: dict[str, Any] = {}
    for measurement in measurements(run):
        found = measurement.make()
        commits.update({told.get("commit", "unknown") for told in found.provenances})
        function |= {key: found.meta.get(key, usual) for key, usual in USUAL.items()}
    return {"rows_from": dict(commits.most_common()), "rows_function": function}
