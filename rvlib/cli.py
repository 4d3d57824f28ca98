"""The command line: ``rvlib data | train | ...``; every command can be stopped and run again."""

import argparse
import sys
from pathlib import Path

from rvlib.device import pick_device


def main(words: list[str] | None = None) -> int:
    """Run one command; a mistake in what was asked gives one line on stderr and status 2."""
    arguments = _parser().parse_args(words)
    try:
        arguments.run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"rvlib: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rvlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train models of the report")
    train.add_argument("names", nargs="+", help="model, or model:seed")
    train.add_argument("--out", type=Path, required=True, help="folder for weights")
    train.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    train.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    train.add_argument("--jobs", type=int, help="trainings at once (default: one a CPU core)")
    train.set_defaults(run=_train)
    return parser


def _train(arguments: argparse.Namespace) -> None:
    from rvlib.stages.train import train_all

    pairs = [
        (name, int(seed or 0)) for name, _, seed in (n.partition(":") for n in arguments.names)
    ]
    device = pick_device(arguments.device)
    train_all(pairs, arguments.out, arguments.work, device, arguments.jobs)
