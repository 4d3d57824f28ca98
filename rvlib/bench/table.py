"""The benchmark's record as tables: what was measured, and what was not."""

import statistics
from typing import Any

from rvlib.bench.compare import OURS
from rvlib.bench.plan import CUDA, GOALS, SECONDS

NOT_MEASURED = "not measured"


def markdown_tables(record: dict[str, Any] | None, device: str) -> str:
    """Write a record as tables.

    Parameters
    ----------
    record : dict or None
        What ``rvlib.bench.run.bench`` wrote; None where it never ran.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    str
        Markdown: a line a job, in the order of the plan; on a GPU the long jobs after them.
    """
    record = record or {"jobs": [], "wholes": []}
    found = {result["job"]: result for result in record["jobs"]}
    tables = [
        [
            "| job | on | goal | times faster (range) | than | ours | theirs | same answers |",
            "|---|---|---|---|---|---|---|---|",
            *(_line(name, goals[device], found.get(name)) for name, goals in GOALS.items()),
        ]
    ]
    if device == CUDA:
        found = {result["job"]: result for result in record["wholes"]}
        tables.append(
            [
                "| job | on | goal | time | made of |",
                "|---|---|---|---|---|",
                *(_whole_line(name, goal, found.get(name)) for name, goal in SECONDS.items()),
            ]
        )
    return "\n\n".join("\n".join(table) for table in tables)


def _line(name: str, goal: float | None, result: dict[str, Any] | None) -> str:
    wanted = "-" if goal is None else f"{goal:g}"
    if result is None:
        return _cells(name, "-", wanted, NOT_MEASURED, "-", "-", "-", "-")
    ours, theirs = result["ways"][OURS], result["ways"][result["fastest"]]
    return _cells(
        name,
        result["on"],
        wanted,
        f"**{result['median']:.2f}** ({result['low']:.2f} to {result['high']:.2f})",
        result["fastest"],
        _way(ours),
        _way(theirs),
        f"{100 * theirs['agrees']:.1f} %"
        + (f", same law: p = {theirs['same_law']:.2f}" if "same_law" in theirs else ""),
    )


def _whole_line(name: str, goal: float, result: dict[str, Any] | None) -> str:
    wanted = f"{goal:g} s"
    if result is None:
        return _cells(name, "-", wanted, NOT_MEASURED, "-")
    total = "not finished" if result["seconds"] is None else f"**{_seconds(result['seconds'])}**"
    parts = (
        f"{part} {_seconds(values['seconds'])}, {values['score']:.1f} %"
        for part, values in result["parts"].items()
    )
    return _cells(name, result["on"], wanted, total, "; ".join(parts))


def _way(way: dict[str, Any]) -> str:
    return f"{_seconds(statistics.median(way['seconds']))}, {way['score']:.1f} %"


def _seconds(seconds: float) -> str:
    # A GPU does in milliseconds what a CPU does in seconds.
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
