"""Write every table and figure of a run from its rows."""

import json
from pathlib import Path
from typing import Any

from rvlib.data import CIFAR10_DIGEST
from rvlib.device import provenance
from rvlib.evaluation import accuracy
from rvlib.files import write_whole
from rvlib.models.weights import read_record
from rvlib.profiles import DEFENCES
from rvlib.recipes import (
    ALPHA,
    ATTACKS,
    N0,
    REPORT_ATTACKS,
    SIGMA,
    SIGMAS,
    SMOOTHED_DRAWS,
    SMOOTHED_STEPS,
    gaussian_name,
    smoothed_name,
)
from rvlib.report.belonging import check_belonging, row_commits, rows_function
from rvlib.report.curves import (
    certified_table,
    draw_figure1,
    figure1_table,
    inside_table,
    save_figure,
)
from rvlib.report.tables import Table, grid, markdown, seeds_table, table1, write_csv
from rvlib.rows import read_rows, rows_path
from rvlib.stages.run import FURTHER, Run, table1_cells
from rvlib.stages.train import weights_path

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii that the summary of the certificates prints, in pixel units."""


def write_tables(run: Run) -> dict[str, Table]:
    """Write Table 1, its companions and Figure 1 into ``run.out``.

    Parameters
    ----------
    run : Run
        All of its rows must be there.

    Returns
    -------
    dict of str to Table
        Every table by the name of its file in ``tables/``.

    Raises
    ------
    rvlib.rows.RowsError
        If rows are missing or do not belong together; no table is written from a part.
    """
    check_belonging(run)
    rows, profile = run.place.rows, run.profile
    cells = table1_cells(run)
    further = [(model, attack) for model in FURTHER for attack in profile.attacks]
    tables = {
        "table1": table1(rows, "heldout", cells, profile.heldout),
        "further": table1(rows, "heldout", further, profile.heldout),
        "seeds": seeds_table(rows, profile.seeds, REPORT_ATTACKS, profile.heldout),
        "sigma": sigma_table(run),
        "certified": certified_table(rows, SIGMAS, profile.ns, RADII, profile.certified),
        "jointly": certified_table(
            rows, SIGMAS, profile.ns, RADII, profile.certified, ALPHA / profile.certified
        ),
        "inside": inside_table(rows, SIGMAS, profile.certified),
        "figure1": figure1_table(rows, SIGMA, SIGMAS, profile.ns, profile.certified),
    }
    if profile.test:
        tables["table2"] = table1(rows, "test", cells, profile.test)
    for name, table in tables.items():
        write_csv(run.out / "tables" / f"{name}.csv", table)
    for name in ("table1", "table2"):
        if name in tables:
            _write_markdown(run.out / "tables" / f"{name}.md", tables[name])
    save_figure(draw_figure1(tables["figure1"]), run.out / "figures" / "figure1")
    text = json.dumps(facts(run), indent=2) + "\n"
    write_whole(run.out / "run.json", text.encode())
    return tables


def sigma_table(run: Run) -> Table:
    """Compare, at each noise level, the network itself with its vote under the report's attacks.

    Parameters
    ----------
    run : Run
        All of its rows must be there.

    Returns
    -------
    Table
        One line a noise level and attack; percentages with Wilson's 95 % intervals.
    """
    rows, count = run.place.rows, run.profile.certified
    table = []
    for sigma in SIGMAS:
        for attack in REPORT_ATTACKS:
            line = {"sigma": f"{sigma:.2f}", "attack": attack, "n": str(count)}
            for column, defence in (
                ("plain", gaussian_name(sigma)),
                ("vote", smoothed_name(sigma)),
            ):
                path = rows_path(rows, "heldout", defence, 0, attack)
                cell = accuracy(read_rows(path, count))
                line[column] = f"{cell.percent:.2f}"
                line[f"{column}_low"] = f"{cell.interval.low:.2f}"
                line[f"{column}_high"] = f"{cell.interval.high:.2f}"
                abstained = f"{100 * cell.abstained / cell.n:.2f}"
            table.append(line | {"vote_abstained": abstained})
    return table


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
    records = {}
    for name, seed in profile.models():
        path = weights_path(run.place.models, name, seed)
        if path.exists():
            record = read_record(path)
            kept = ("sha256", "epochs", "seconds", "commit", "torch", "device", "date")
            records[f"{name} seed {seed}"] = {key: record[key] for key in kept} | {
                "best_epoch": record["best_epoch"],
                "best": record["best"],
                "last": record["last"],
            }
    return {
        "profile": profile.name,
        "heldout": profile.heldout,
        "test": profile.test,
        "certified": profile.certified,
        "ns": list(profile.ns),
        "votes": profile.votes,
        "n0": N0,
        "alpha": ALPHA,
        "sigma": SIGMA,
        "sigmas": list(SIGMAS),
        "seeds": profile.seeds,
        "defences": list(DEFENCES),
        "attacks": {name: ATTACKS[name].record() for name in profile.attacks},
        "rows_from": row_commits(run),
        "rows_function": rows_function(run),
        "vote_attack": {"draws": SMOOTHED_DRAWS, "steps": SMOOTHED_STEPS},
        "data": CIFAR10_DIGEST,
        "weights": records,
        **provenance(run.place.device),
    }


def _write_markdown(path: Path, table: Table) -> None:
    text = markdown(grid(table)) + "\n\n" + markdown(table) + "\n"
    write_whole(path, text.encode())
