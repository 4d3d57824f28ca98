"""The command line: training and measuring resume when the command is given again."""

import argparse
import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import rvlib

Lines = Sequence[object]
"""What a command prints when it is done."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; what is wrong with it is one line on stderr and status 2.

    Errors in a network's own code keep their traceback.
    """
    arguments = _parser().parse_args(words)
    for name in ("RVLIB_BUILD", "RVLIB_DATA", "RVLIB_ROOT"):
        if os.environ.get(name):  # kernels run in another folder
            os.environ[name] = str(Path(os.environ[name]).expanduser().resolve())
    if hasattr(sys.stdout, "reconfigure"):
        # A log file shows lines as they come; a terminal without Greek letters shows "?".
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    warnings.formatwarning = lambda message, *_: f"rvlib: {message}\n"
    try:
        for line in arguments.run(arguments) or ():
            print(line)
    except BrokenPipeError:  # "| head" has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(
            "rvlib: stopped; training and measuring resume with the same command", file=sys.stderr
        )
        return 130
    except (ValueError, RuntimeError, ArithmeticError, OSError, MemoryError, ImportError) as error:
        print(f"rvlib: {_line(error)}", file=sys.stderr)
        return 2
    return 0


def _line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'rvlib[course]' has what this needs"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rvlib", description=__doc__)
    parser.add_argument("--version", action="version", version=rvlib.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run, text: str, profile: str = "", seed: bool = False):  # type: ignore[no-untyped-def]
        """Add a command; what adds its arguments."""
        added = commands.add_parser(run.__name__.strip("_"), help=text, description=text)
        added.set_defaults(run=run)
        if profile:
            added.add_argument("--profile", default=profile, help=f"default: {profile}")
            _add_device(added.add_argument)
        if seed:
            added.add_argument("--seed", type=int, default=0, help="of attacks and votes")
        return added.add_argument

    add = command(_data, "fetch and verify a data set")
    add("name", nargs="?", default="cifar10", help="default: cifar10")
    add = command(_train, "train networks, all of the profile's by default", "full")
    add("names", nargs="*", metavar="NETWORK")
    add("--training-seed", type=int, help="only this one of the training seeds")
    add = command(_measure, "train and measure all of a profile (modern: Part II)", "full", True)
    add("names", nargs="*", metavar="NETWORK", help="only of these networks")
    add = judge = command(_evaluate, "evaluate a defence: yours, or a shipped one")
    add("--threat", default="linf:8/255", help="default: linf:8/255")
    add("--attack", help="fast (default), standard or rand")
    add("--images", type=_positive, default=1000, help="default: the first 1000")
    add("--sigma", type=float, help="judge the smoothed network of this noise")
    add("--keep-images", action="store_true", help="write the attacked images, too")
    add("--out", help="folder for rows and page (default: build/evaluate/MODEL)")
    add = certified = command(_certify, "certify a smoothed network: yours, or a shipped one")
    add("--sigma", type=float, required=True, help="noise level")
    add("--images", type=_positive, default=500, help="default: the first 500")
    # Not --n: torchrun takes that for an abbreviation of its own options.
    add("--votes", type=int, default=100_000, help="votes per image, N; default: 100000")
    selecting = "votes that select the class, N0; default: 100"
    add("--selection", type=int, default=100, help=selecting)
    add("--alpha", type=float, default=0.001, help="failure probability; default: 0.001")
    exact = "gaussian (default), or grid: exact in floating point"
    add("--noise", default="gaussian", help=exact)
    add("--batch-size", type=int, help="noisy copies per forward pass")
    add("--out", help="folder for the rows (default: build/certify/MODEL)")
    for add in (judge, certified):
        images = "data set[:split], or image folder; default: cifar10:test"
        add("--data", default="cifar10:test", help=images)
        add("network", metavar="MODEL", help="a name, or module:function")
        add("--profile", help="weights that you trained in it; default: shipped ones")
        add("--size", type=_positive, help="scale a folder's images to this side")
        add("--shard", help="part K of N; default: from torchrun or SLURM")
        _add_device(add)
        add("--seed", type=int, default=0, help="of attacks and votes")
    command(_check, "check that accuracies under attack behave as they must", "course", True)
    command(_report, "run the notebooks and write the report", "course", True)
    command(_notebooks, "run the notebooks and write them back with their outputs", "lesson")
    add = command(_playground, "write the playground, one page that works from disk")
    add("--out", default="playground.html", help="default: playground.html")
    command(_site, "write the notebooks and the report as static pages", "lesson")
    add = command(_grade, "grade the exercises of students' notebooks")
    add("notebooks", nargs="+", metavar="NOTEBOOK", type=Path)
    add("--seconds", type=float, default=60, help="for an exercise (default: 60)")
    add("--seed", type=int, help="of the hidden cases (default: drawn, printed)")
    add("--out", type=Path, help="also write points and diagnoses as CSV")
    add = command(_handouts, "write the notebooks for students, solved, and for nbgrader")
    add("--out", type=Path, help="default: build/handouts")
    add = command(_slides, "write the notebooks as slides", "lesson")
    add("--out", type=Path, help="default: build/slides")
    command(_publish, "copy a finished run (full, or modern: Part II) into report/", "full")
    return parser


def _add_device(add) -> None:  # type: ignore[no-untyped-def]
    add("--device", help="default: the GPU where there is one")
    words = "on a GPU, the same bits each time: slower"
    add("--deterministic", action="store_true", help=words)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def _build() -> Path:
    return Path(os.environ.get("RVLIB_BUILD") or "build")


def _data(arguments: argparse.Namespace) -> Lines:
    from rvlib.data import fetch

    return [fetch(arguments.name)]


def _open(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from rvlib.device import choose_algorithms
    from rvlib.pipeline import Run

    choose_algorithms(arguments.deterministic)
    if arguments.profile == "modern" and arguments.run not in (_train, _measure, _publish):
        raise ValueError("profile 'modern' is for rvlib train, measure and publish")
    return Run.open(arguments.profile, arguments.device, seed=getattr(arguments, "seed", 0))


def _train(arguments: argparse.Namespace) -> None:
    from rvlib.distributed import pick_own_gpu, process_group

    pick_own_gpu()
    run = _open(arguments)
    if not run.profile.trains:
        raise ValueError(f"profile {run.profile.name!r} uses the shipped weights; give full")
    run.profile.check_networks(arguments.names)
    pairs = [
        (name, seed)
        for name, seed in run.profile.trained()
        if (not arguments.names or name in arguments.names)
        and arguments.training_seed in (None, seed)
    ]
    if not pairs:
        raise ValueError(f"none of these networks has a training seed {arguments.training_seed}")
    with process_group(run.device):
        run.train(*pairs)


def _announce(run, *names: str) -> None:  # type: ignore[no-untyped-def]
    from rvlib.pipeline.duration import estimate

    minutes = estimate(run, *names) / 60
    left = f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    print(f"profile {run.profile.name}: about {left} left; resumes after a stop (in {run.out})")


def _measure(arguments: argparse.Namespace) -> None:
    from rvlib.pipeline.everything import measure_everything

    run = _open(arguments)
    _announce(run, *arguments.names)
    measure_everything(run, *arguments.names)


def _given(arguments: argparse.Namespace, command: str):  # type: ignore[no-untyped-def]
    """Load what a command is about: the network, the images with their labels; a place; a part."""
    from rvlib import arguments as named
    from rvlib.device import choose_algorithms, pick_device
    from rvlib.distributed import pick_own_gpu

    pick_own_gpu()
    choose_algorithms(arguments.deterministic)
    shard, device = named.find_shard(arguments.shard), pick_device(arguments.device)
    model = named.find_network(arguments.network, arguments.profile).to(device)
    found = named.find_data(arguments.data, model, arguments.size)
    data = tuple(part[: arguments.images] for part in found)
    name = arguments.network.replace(":", ".")
    return model, data, Path(arguments.out or _build() / command / name), shard


def _evaluate(arguments: argparse.Namespace) -> Lines:
    from rvlib import arguments as named
    from rvlib.attacks.autoattack import VERSIONS
    from rvlib.judge import evaluate
    from rvlib.results import Incomplete

    threat = named.parse_threat(arguments.threat)
    if arguments.sigma is not None and (arguments.keep_images or arguments.attack):
        raise ValueError("--attack and --keep-images are for the ensemble: leave out --sigma")
    attack = arguments.attack or "fast"
    model, data, out, shard = _given(arguments, "evaluate")
    if arguments.sigma is None and attack in VERSIONS:
        seconds = named.seconds_at_most(model, data, attack) / shard[1]
        print(
            f"attacks: at most {seconds / 60:.0f} min, where all images stand; then the sanity "
            f"checks; resumes after a stop ({out})"
        )
    try:
        verdict = evaluate(
            *(model, data, threat),
            attack=attack,
            sigma=arguments.sigma,
            name=arguments.network,
            out=out,
            keep_images=arguments.keep_images,
            shard=shard,
            seed=arguments.seed,
        )
    except Incomplete as error:
        return [f"this part is done; of others rows are missing: {error}"]
    return [verdict.text(), out / "verdict.html"]


def _certify(arguments: argparse.Namespace) -> Lines:
    from rvlib.certification import certify_images, summary
    from rvlib.results import Incomplete

    model, data, out, shard = _given(arguments, "certify")
    try:
        table = certify_images(
            *(model, data, arguments.sigma),
            out=out,
            n0=arguments.selection,
            n=arguments.votes,
            alpha=arguments.alpha,
            noise=arguments.noise,
            batch_size=arguments.batch_size,
            shard=shard,
            seed=arguments.seed,
        )
    except Incomplete as error:
        return [f"this part is done; of others rows are missing: {error}"]
    said = summary(table, arguments.sigma, arguments.votes, arguments.alpha)
    return [said, out / "certificates.csv"]


def _check(arguments: argparse.Namespace) -> Lines:
    from rvlib.pipeline import check
    from rvlib.report.tables import markdown

    return [markdown(check(_open(arguments)))]


def _report(arguments: argparse.Namespace) -> Lines:
    from rvlib.pipeline import repository
    from rvlib.pipeline.everything import measure_everything
    from rvlib.report.document import build
    from rvlib.report.notebooks import run_notebooks

    repository()  # before hours of work
    run = _open(arguments)
    # Long work belongs here, with progress and all cores, not inside a notebook's cell.
    _announce(run)
    measure_everything(run)
    run_notebooks(run, arguments.device, at_once=1 if run.device.type == "cuda" else 2)
    return build(run.out)


def _notebooks(arguments: argparse.Namespace) -> None:
    from rvlib.report.notebooks import publish_notebooks, run_notebooks

    publish_notebooks(run_notebooks(_open(arguments), arguments.device))


def _site(arguments: argparse.Namespace) -> Lines:
    from rvlib.report.site import build_site

    return [build_site(_open(arguments))]


def _grade(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from rvlib.course.grading import Grade, grade, points_at_most
    from rvlib.report.tables import write_csv

    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    lines, failed = [], 0
    for path in arguments.notebooks:
        try:
            grades = grade(path, seed, arguments.seconds)
        except Exception as error:  # one student's file must not cost the others their points
            failed += 1
            grades = [Grade("", 0, " ".join(str(error).split()) or type(error).__name__)]
            print(f"{path}: not graded: {grades[0].verdict}")
        else:
            for each in grades:
                print(f"{each.points}/{points_at_most(1)}  {each.exercise}: {each.verdict}")
            total = sum(each.points for each in grades)
            print(f"{path}: {total} of {points_at_most(len(grades))} points, seed {seed}")
        lines += [{"notebook": str(path), "seed": seed} | each._asdict() for each in grades]
        if arguments.out:
            write_csv(arguments.out, pd.DataFrame(lines))
    if failed:
        raise ValueError(f"{failed} of {len(arguments.notebooks)} files were not graded")


def _handouts(arguments: argparse.Namespace) -> Lines:
    from rvlib.course.handouts import write_handouts
    from rvlib.pipeline import repository

    return write_handouts(repository(), arguments.out or _build() / "handouts")


def _slides(arguments: argparse.Namespace) -> Lines:
    from rvlib.course.slides import build_slides

    return build_slides(_open(arguments), arguments.out)


def _playground(arguments: argparse.Namespace) -> Lines:
    from rvlib.report.playground import playground

    Path(arguments.out).write_text(playground(), encoding="utf-8")
    return [arguments.out]


def _publish(arguments: argparse.Namespace) -> Lines:
    from rvlib.report.publish import publish, publish_part_two

    run = _open(arguments)
    return (publish_part_two if run.profile.name == "modern" else publish)(run)
