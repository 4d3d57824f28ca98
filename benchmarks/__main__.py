"""Time rvlib's attacks, votes and training beside other libraries and the papers' loops."""

import argparse
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.jobs import jobs
from benchmarks.measure import measure, prepare
from benchmarks.table import into_readme, table

ROOT = Path(__file__).parents[1]


def main(words: list[str] | None = None) -> None:
    """Measure and print the table, or write that of a record into the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--only", default="", metavar="TEXT", help="jobs with TEXT in their name")
    parser.add_argument("--update", action="store_true", help="put those of --only into the record")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--baseline", default="", metavar="PATH", help="time its rvlib, too")
    parser.add_argument("--out", type=Path, help="default: report/bench/DEVICE.json; in build/ if "
                        "--only, --quick or --baseline is given")  # fmt: skip
    parser.add_argument("--readme", action="store_true", help="no measurement: OUT into README.md")
    options = parser.parse_args(words)
    partial = bool((options.only and not options.update) or options.quick or options.baseline)
    build = Path(os.environ.get("RVLIB_BUILD") or ROOT / "build")
    out = options.out or (build if partial else ROOT / "report") / f"bench/{options.device}.json"
    if options.readme:
        return into_readme(json.loads(out.read_text()), options.device, ROOT / "README.md")
    chosen = [job for job in jobs(options.device, options.quick) if options.only in job.name]
    if not chosen:
        raise SystemExit(f"no job has {options.only!r} in its name")
    trained_on = 64 if options.quick else 4096
    inputs = prepare(build / "bench" / "inputs.pt", options.device, trained_on)
    by = _provenance(options.device)
    record = {**by, "rounds": options.rounds, "jobs": []}
    if options.update:
        record = _same_versions(json.loads(out.read_text()), by)
    for result in measure(chosen, inputs, options.device, options.rounds, options.baseline):
        result |= {name: by[name] for name in ("commit", "date", "device")}
        result["rounds"] = max(len(r["seconds"]) for r in result["implementations"].values())
        record["jobs"] = _in_order([*record["jobs"], result], options.device)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        print(table({**record, "jobs": [result]}).splitlines()[-1])
    print(f"\n{table(record)}\n\n{out}")


def _same_versions(record: dict[str, Any], by: dict[str, Any]) -> dict[str, Any]:
    """Refuse to put times of two versions into one record; each machine has a table of its own."""
    for name in ("torch", "versions"):
        if record[name] != by[name]:
            raise SystemExit(f"the record's {name} is {record[name]}, not {by[name]}: measure all")
    return record


def _in_order(results: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Bring results into the order of the table; of two of one job the later counts."""
    latest = {result["name"]: result for result in results}
    return [latest[job.name] for job in jobs(device) if job.name in latest]


def _provenance(device: str) -> dict[str, Any]:
    from rvlib.device import pick_device, provenance

    names = ("torchattacks", "foolbox", "adversarial-robustness-toolbox", "torchvision", "numpy")
    return {**provenance(pick_device(device)), "versions": {name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
