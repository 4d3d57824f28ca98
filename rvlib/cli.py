"""The command line: every command can be stopped, and resumes when it is given again."""

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

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
    judge = command(_evaluate, "evaluate a defence: yours, or a shipped one")
    judge.add_argument("network", metavar="MODEL", help="a shipped name, or module:function")
    judge.add_argument("--data", default="cifar10:test", help="data set[:split], or image folder")
    judge.add_argument("--threat", default="linf:8/255", help="default: linf:8/255")
    judge.add_argument("--attack", default="fast", help="fast (default), standard or rand")
    judge.add_argument("--images", type=int, default=1000, help="default: the first 1000")
    judge.add_argument("--sigma", type=float, help="judge the smoothed network of this noise")
    judge.add_argument("--keep-images", action="store_true", help="write the attacked images, too")
    judge.add_argument("--out", help="folder for rows and page (default: build/evaluate/MODEL)")
    judge.add_argument("--device", help="default: the GPU where there is one")
    judge.add_argument("--seed", type=int, default=0, help="of attacks and votes")
    command(_check, "check that accuracies under attack behave as they must", "course", seed=True)
    command(_report, "run the notebooks and write the report", "course", seed=True)
    command(_notebooks, "run the notebooks and write them back with their outputs", "lesson")
    command(_site, "write the notebooks and the report as static pages", "lesson")
    grading = command(_grade, "grade the exercises of students' notebooks")
    grading.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", type=Path)
    grading.add_argument("--seconds", type=float, default=60, help="an exercise (default: 60)")
    grading.add_argument("--seed", type=int, help="of the hidden cases (default: drawn, printed)")
    grading.add_argument("--out", type=Path, help="also write points and diagnoses as CSV")
    handing = command(_handouts, "write the notebooks for students, solved, and for nbgrader")
    handing.add_argument("--out", type=Path, help="default: build/handouts")
    slides = command(_slides, "write the notebooks as slides", "lesson")
    slides.add_argument("--out", type=Path, help="default: build/slides")
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
    from rvlib.modern import MODERN

    run = _open(arguments)
    if not run.profile.trains:
        raise ValueError(f"profile {run.profile.name!r} uses the shipped weights; give full")
    for name in arguments.names:
        find_recipe(name)
    pairs = run.profile.trained()
    pairs += [(name, arguments.training_seed or 0) for name in arguments.names if name in MODERN]
    pairs = [
        (name, seed)
        for name, seed in pairs
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


def _evaluate(arguments: argparse.Namespace) -> None:
    from rvlib import arguments as named
    from rvlib.attacks.autoattack import VERSIONS
    from rvlib.device import pick_device
    from rvlib.judge import evaluate

    threat, device = named.parse_threat(arguments.threat), pick_device(arguments.device)
    model = named.find_network(arguments.network).to(device)
    images, labels = (part[: arguments.images] for part in named.find_data(arguments.data, model))
    name = arguments.network.replace(":", ".")
    out = Path(arguments.out or Path("build", "evaluate", name))
    if not arguments.sigma and arguments.attack in VERSIONS:
        seconds = named.seconds_at_most(model, (images, labels), arguments.attack)
        print(
            f"at most {seconds / 60:.0f} min where all images stand; resumes after a stop ({out})"
        )
    verdict = evaluate(
        *(model, (images, labels), threat),
        attack=arguments.attack,
        sigma=arguments.sigma,
        name=arguments.network,
        out=out,
        keep_images=arguments.keep_images,
        seed=arguments.seed,
    )
    print(verdict.text())
    print(out / "verdict.html")


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


def _grade(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from rvlib.course.grading import grade, points_at_most
    from rvlib.report.tables import write_csv

    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    lines = []
    for path in arguments.notebooks:
        grades = grade(path, seed, arguments.seconds)
        lines += [{"notebook": path.name, "seed": seed} | each._asdict() for each in grades]
        for each in grades:
            print(f"{each.points}/{points_at_most(1)}  {each.exercise}: {each.verdict}")
        total = sum(each.points for each in grades)
        print(f"{path.name}: {total} of {points_at_most(len(grades))} points, seed {seed}")
    if arguments.out:
        write_csv(arguments.out, pd.DataFrame(lines))


def _handouts(arguments: argparse.Namespace) -> None:
    from rvlib.course.handouts import write_handouts
    from rvlib.pipeline import repository

    for folder in write_handouts(repository(), arguments.out or Path("build", "handouts")):
        print(folder)


def _slides(arguments: argparse.Namespace) -> None:
    from rvlib.course.slides import build_slides

    for path in build_slides(_open(arguments), arguments.out):
        print(path)


def _publish(arguments: argparse.Namespace) -> None:
    from rvlib.report.publish import publish

    publish(_open(arguments))
