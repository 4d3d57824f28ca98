"""The command line: every command can be stopped, and resumes when it is given again."""

import argparse
import sys
from collections.abc import Sequence

import rvlib


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; what is wrong with it is one line on stderr and status 2."""
    arguments = _parser().parse_args(words)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows lines as they come
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("rvlib: stopped; the same command resumes", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, ArithmeticError, OSError, MemoryError, ImportError) as error:
        print(f"rvlib: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rvlib", description=__doc__)
    parser.add_argument("--version", action="version", version=rvlib.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run, text: str, profile: str = "", seed: bool = False) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        added = commands.add_parser(run.__name__.strip("_"), help=text, description=text)
        added.set_defaults(run=run)
        if profile:
            added.add_argument("--profile", default=profile, help=f"default: {profile}")
            added.add_argument("--device", help="default: the GPU where there is one")
        if seed:
            added.add_argument("--seed", type=int, default=0, help="of attacks and votes")
        return added

    data = command(_data, "fetch and verify a data set")
    data.add_argument("name", nargs="?", default="cifar10", help="default: cifar10")
    train = command(_train, "train networks, all of the profile's by default", "full")
    train.add_argument("names", nargs="*", metavar="NETWORK")
    train.add_argument("--training-seed", type=int, help="only this one of the training seeds")
    command(_measure, "train and measure all of a profile, without notebooks", "full", seed=True)
    command(_check, "check that accuracies under attack behave as they must", "course", seed=True)
    command(_report, "run the notebooks and write the report", "course", seed=True)
    command(_notebooks, "run the notebooks and write them back with their outputs", "lesson")
    command(_site, "write the notebooks and the report as static pages", "lesson")
    command(_publish, "copy a finished full run into report/", "full")
    return parser


def _data(arguments: argparse.Namespace) -> None:
    from rvlib.data import fetch

    print(fetch(arguments.name))


def _open(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from rvlib.pipeline import Run

    return Run.open(arguments.profile, arguments.device, seed=getattr(arguments, "seed", 0))


def _train(arguments: argparse.Namespace) -> None:
    from rvlib.experiments import find_recipe

    run = _open(arguments)
    if not run.profile.trains:
        raise ValueError(f"profile {run.profile.name!r} uses the shipped weights; give full")
    for name in arguments.names:
        find_recipe(name)
    pairs = [
        (name, seed)
        for name, seed in run.profile.trained()
        if (not arguments.names or name in arguments.names)
        and arguments.training_seed in (None, seed)
    ]
    if not pairs:
        raise ValueError(f"no such network has a training seed {arguments.training_seed}")
    run.train(*pairs)


def _announce(run) -> None:  # type: ignore[no-untyped-def]
    from rvlib.pipeline import estimate

    minutes = estimate(run) / 60
    left = f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    print(f"profile {run.profile.name}: about {left} left; resumes after a stop (in {run.out})")


def _measure(arguments: argparse.Namespace) -> None:
    from rvlib.pipeline import measure_everything

    run = _open(arguments)
    _announce(run)
    measure_everything(run)


def _check(arguments: argparse.Namespace) -> None:
    from rvlib.pipeline import check
    from rvlib.report.tables import markdown

    print(markdown(check(_open(arguments))))


def _report(arguments: argparse.Namespace) -> None:
    from rvlib.pipeline import measure_everything
    from rvlib.report.document import build
    from rvlib.report.notebooks import run_notebooks

    run = _open(arguments)
    # Long work belongs here, with progress and all cores, not inside a notebook's cell.
    _announce(run)
    measure_everything(run)
    run_notebooks(run, arguments.device, at_once=1 if run.device.type == "cuda" else 2)
    for path in build(run.out):
        print(path)


def _notebooks(arguments: argparse.Namespace) -> None:
    from rvlib.report.notebooks import publish_notebooks, run_notebooks

    publish_notebooks(run_notebooks(_open(arguments), arguments.device))


def _site(arguments: argparse.Namespace) -> None:
    from rvlib.report.site import build_site

    print(build_site(_open(arguments)))


def _publish(arguments: argparse.Namespace) -> None:
    from rvlib.report.publish import publish

    publish(_open(arguments))
