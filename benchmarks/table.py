"""The record as a table, in Markdown."""

import re
import statistics
from pathlib import Path
from typing import Any

from benchmarks.jobs import BASELINE, OURS


def table(record: dict[str, Any]) -> str:
    """Write a record as a sentence and a table for each machine and number of rounds."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for job in record["jobs"]:
        place = job.get("device", record["device"]), job.get("rounds", record["rounds"])
        groups.setdefault(place, []).append(job)
    found = [_table(jobs, record["torch"], *place) for place, jobs in groups.items()]
    return "\n\n".join(found)


def _table(jobs: list[dict[str, Any]], torch: str, device: str, rounds: int) -> str:
    """Write the jobs of one machine; with a baseline there is one more column."""
    baseline = any(BASELINE in job["implementations"] for job in jobs)
    head = ["job", "on", "goal", "speed-up (range)", "over", "ours", "theirs", "same answers"]
    head += ["time, new to old (range)"] if baseline else []
    rows = [_row(job, baseline) for job in jobs]
    on = f"{device}, torch {torch}, {rounds} round{'s' if rounds > 1 else ''}:"
    return f"{on}\n\n{markdown(head, rows)}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Lay rows out in Markdown, under a head."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _row(job: dict[str, Any], baseline: bool) -> list[str]:
    found = dict(job["implementations"])
    ours, old = found.pop(OURS), found.pop(BASELINE, None)
    name = min(found, key=lambda name: statistics.median(found[name]["seconds"]), default="-")
    cells = [job["name"], job["on"], "-" if job["goal"] is None else f"{job['goal']:g}"]
    if name in found:
        theirs = found[name]
        cells += [_ratio(theirs, ours), name, _cell(ours), _cell(theirs), f"{theirs['same']:.1f} %"]
    else:
        cells += ["-", "-", _cell(ours), "-", "-"]
    return cells + ([_ratio(ours, old) if old else "-"] if baseline else [])


def _ratio(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Median ratio of the times of the same round, and its range."""
    ratios = [i / j for i, j in zip(a["seconds"], b["seconds"], strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def _cell(result: dict[str, Any]) -> str:
    seconds = statistics.median(result["seconds"])
    time = f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"
    passes = f", {result['passes']:,} passes" if "passes" in result else ""
    return f"{time}, {result['accuracy']:.1f} %{passes}"


def into_readme(record: dict[str, Any], device: str, readme: Path) -> None:
    """Write the table between the device's markers."""
    start, end = f"<!-- bench: {device} -->", "<!-- /bench -->"
    text = readme.read_text()
    new = f"{start}\n{table(record)}\n{end}"
    text, n = re.subn(f"{start}.*?{end}", lambda _: new, text, count=1, flags=re.DOTALL)
    if not n:
        raise ValueError(f"{readme} has no {start} … {end}")
    readme.write_text(text)
