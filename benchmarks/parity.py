"""Is AutoAttack as strong as the published attacks?  ``python -m benchmarks.parity``

On every shipped network, in both norms, the version ``standard`` beside torchattacks' code of the
same four attacks at the published settings.  It takes about an hour of one core; a run that was
stopped resumes.
"""

import json
from pathlib import Path
from typing import Any

import torch

import rvlib as rv
from benchmarks.others import published
from benchmarks.ours import answers, threat_of
from benchmarks.table import markdown
from rvlib.device import provenance

RECORD = Path(__file__).parents[1] / "report" / "bench" / "parity.json"
IMAGES = 512
BALLS = {"linf": 0.03, "l2": 0.5}


def compare(network: torch.nn.Module, norm: str, eps: float) -> dict[str, int]:
    """Count the images that stand after ours and theirs, and after one of them alone."""
    x, y = (part[:IMAGES] for part in rv.load("cifar10", "heldout"))
    x = rv.to_float(x).contiguous()
    options: dict[str, Any] = {"version": "standard", "generator": torch.Generator().manual_seed(0)}
    stages = rv.autoattack_stages(network, x, y, threat_of(norm, eps), **options)[1]
    stands = {stage.name: stage.stands for stage in stages}
    fast, ours = stands["apgd-t"], stands["square"]
    theirs = answers(network, published(network, norm, eps)(x, y)) == y
    found = {"fast": fast, "ours": ours, "theirs": theirs}
    found |= {"only ours": ours & ~theirs, "only theirs": theirs & ~ours}
    return {name: int(stand.sum()) for name, stand in found.items()}


def table(record: dict[str, Any]) -> str:
    """Write the record in Markdown."""
    head = ["network", "ball", "fast", "standard", "theirs", "only ours", "only theirs"]
    rows = [[*key.split(", "), *map(str, row.values())] for key, row in record["rows"].items()]
    by = record["by"]
    on = f"Images of {record['images']} that stand; {by['device']}, torch {by['torch']}:"
    return f"{on}\n\n{markdown(head, rows)}"


def main() -> None:
    """Compare, write the record after each row, and print the table."""
    record: dict[str, Any] = {"images": IMAGES, "by": provenance(torch.device("cpu")), "rows": {}}
    record |= json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for folder in sorted((RECORD.parents[1] / "models").iterdir()):
        network = rv.lenet()
        rv.load_weights(network, folder / "seed-0.safetensors")
        network.eval()
        for norm, eps in BALLS.items():
            key = f"{folder.name}, {norm} {eps:g}"
            if key not in record["rows"]:
                record["rows"][key] = compare(network, norm, eps)
                RECORD.write_text(json.dumps(record, indent=1) + "\n")
                print(key, record["rows"][key], flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
