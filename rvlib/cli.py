"""The command line: every command can be stopped, and goes on when it is given again."""

import argparse
import errno
import os
import re
import sys

import rvlib


def main(words: list[str] | None = None) -> int:
    """Run one command; a mistake in what was asked gives one line on stderr and status 2.

    Parameters
    ----------
    words : list of str, default=None
        The command line; that of the process by default.

    Returns
    -------
    int
        0, or 2 after a failure, or 130 after an interruption.
    """
    arguments = _parser().parse_args(words)
    if hasattr(sys.stdout, "reconfigure"):
        # A log file shows each line when it is said, not when the run ends.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("rvlib: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, RuntimeError, OSError, MemoryError) as error:
        print(f"rvlib: {_in_one_line(error)}", file=sys.stderr)
        return 2
    return 0


ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your share of the disk",
    errno.EROFS: "set RVLIB_ROOT to a copy of the checkout that can be written",
    errno.EACCES: "make it readable and writable, or set RVLIB_ROOT to a copy that is",
}
"""What to do about an error of the file system; the same command then goes on."""


def _in_one_line(error: BaseException) -> str:
    """Say what is wrong and, where the error itself does not, what to do."""
    text = " ".join(str(error).split())
    # By name: to look the class up, torch would have to be loaded.
    if type(error).__name__ == "OutOfMemoryError" or "CUDA error: out of memory" in text:
        # Torch goes on about its allocator; what was asked for stands in the first two sentences.
        said = ". ".join(re.split(r"\. (?=[A-Z])", text)[:2])
        return (
            f"{said}: end what else uses the GPU, set RVLIB_MEMORY to fewer GB than are free, "
            "as in RVLIB_MEMORY=2, or use --device cpu; the same command goes on"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        size = f" ({text})" if text else ""
        return f"not enough memory{size}: set RVLIB_MEMORY to fewer GB, as in RVLIB_MEMORY=2"
    if isinstance(error, OSError) and error.errno in ADVICE:
        return f"{text}: {ADVICE[error.errno]}, then the same command goes on"
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rvlib", description=__doc__)
    parser.add_argument("--version", action="version", version=rvlib.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("data", _data, "fetch and verify CIFAR-10"),
        ("train", _train, "train the models of a profile that trains"),
        ("measure", _measure, "train and measure everything of a profile, without notebooks"),
        ("check", _check, "check that the accuracies under attack behave as they must"),
        ("report", _report, "run the notebooks and write the report"),
        ("publish", _publish, "copy a full run into report/"),
        ("notebooks", _notebooks, "run the notebooks and write them back with their outputs"),
        ("site", _site, "write the notebooks and the report as static pages"),
        ("bench", _bench, "measure the speed of attacks, votes and training beside peers"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name in ("train", "measure", "check", "report", "publish", "notebooks", "site"):
            default = "full" if name in ("train", "measure", "publish") else "course"
            command.add_argument("--profile", default=default, help=f"default: {default}")
        if name in ("train", "measure", "check", "report", "notebooks", "bench"):
            command.add_argument("--device", help="default: the GPU where there is one")
        if name in ("measure", "check", "report"):
            command.add_argument("--seed", type=int, default=0, help="of attacks and votes")
        if name == "bench":
            command.add_argument(
                "--publish", action="store_true", help="put the last table into report/ and README"
            )
        if name == "train":
            command.add_argument("names", nargs="*", help="models; all by default")
    return parser


# Imports inside: `rvlib --help` must not wait for torch.


def _data(arguments: argparse.Namespace) -> None:
    from rvlib.data import fetch_cifar10

    print(fetch_cifar10())


def _train(arguments: argparse.Namespace) -> None:
    from rvlib.recipes import find_recipe
    from rvlib.stages.run import Run

    for name in arguments.names:
        find_recipe(name)
    run = Run.open(arguments.profile, arguments.device)
    if not run.profile.trains:
        raise ValueError(f"profile {run.profile.name!r} uses the shipped weights; use full")
    run.train(*arguments.names)


def _measure(arguments: argparse.Namespace) -> None:
    from rvlib.stages.run import Run, measure_everything

    run = Run.open(arguments.profile, arguments.device, seed=arguments.seed)
    _announce(run)
    measure_everything(run)


def _check(arguments: argparse.Namespace) -> None:
    from rvlib.data import fetch_cifar10
    from rvlib.stages.check import check
    from rvlib.stages.run import Run

    run = Run.open(arguments.profile, arguments.device, seed=arguments.seed)
    fetch_cifar10()
    print(check(run).with_suffix(".md").read_text(), end="")


def _report(arguments: argparse.Namespace) -> None:
    from rvlib.data import fetch_cifar10
    from rvlib.report.document import build
    from rvlib.report.runner import run_notebooks
    from rvlib.stages.run import Run, measure_everything

    run = Run.open(arguments.profile, arguments.device, seed=arguments.seed)
    fetch_cifar10()
    if run.profile.trains:
        # Hours of work belong here, with progress and both cores, not inside a notebook's cell.
        _announce(run)
        measure_everything(run)
    run_notebooks(run, arguments.device)
    for path in build(run.out):
        print(path)


def _publish(arguments: argparse.Namespace) -> None:
    from rvlib.report.publish import publish
    from rvlib.stages.run import Run

    publish(Run.open(arguments.profile))


def _notebooks(arguments: argparse.Namespace) -> None:
    from rvlib.report.runner import publish_notebooks, run_notebooks
    from rvlib.stages.run import Run

    run = Run.open(arguments.profile, arguments.device)
    publish_notebooks(run_notebooks(run, arguments.device))


def _site(arguments: argparse.Namespace) -> None:
    from rvlib.report.site import build_site
    from rvlib.stages.run import Run

    print(build_site(Run.open(arguments.profile)))


def _bench(arguments: argparse.Namespace) -> None:
    from rvlib.bench import bench, publish_bench
    from rvlib.data import fetch_cifar10
    from rvlib.stages.run import Run

    run = Run.open("course", arguments.device)
    fetch_cifar10()
    print(publish_bench(run) if arguments.publish else bench(run))


def _announce(run) -> None:  # type: ignore[no-untyped-def]
    from rvlib.stages.estimate import duration, seconds

    cores = os.cpu_count() or 1
    left = duration(seconds(run, cores))
    where = f"{cores} CPU cores" if run.place.device.type == "cpu" else str(run.place.device)
    print(
        f"profile {run.profile.name}: left to train and measure on {where}: {left}; "
        f"stop it at any time, the same command goes on (work so far: {run.out})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
