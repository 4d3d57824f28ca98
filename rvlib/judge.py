"""How do I evaluate my defence?  One call: the ensemble, the checks, a page in words."""

import hashlib
import html
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rvlib.attacks import smoothed_pgd
from rvlib.attacks.autoattack import VERSIONS, autoattack_stages
from rvlib.attacks.gradient import configured, fooled
from rvlib.checks import check_attack
from rvlib.data import DATASETS, image_folder, load, to_float
from rvlib.device import arithmetic, provenance
from rvlib.evaluation import device_of
from rvlib.inference import eval_mode, logits_of
from rvlib.progress import progress
from rvlib.results import atomic_write, missing, open_results, read, write_shard
from rvlib.sanity_checks import SAME, Check, sanity
from rvlib.smoothing import certify, predict, stream, wilson
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel

SHARD = 64
"""Images of a shard of rows: what a kill loses at most."""
CHECKED = 256
"""Images that the sanity checks get, at most."""
WORST = {"apgd-ce": 300, "apgd-t": 2700, "fab-t": 3600, "square": 5000, "apgd-dlr": 6000}
"""Passes an image, forwards and backwards, where it withstands all of an attack (of ``rand``, with
20 answers each, APGD on the cross-entropy takes as many as on the ratio)."""
TITLES = {
    "clean": "clean images",
    "apgd-ce": "APGD, cross-entropy",
    "apgd-t": "APGD, targeted",
    "apgd-dlr": "APGD, difference of logits ratio",
    "fab-t": "FAB, targeted",
    "square": "Square, no gradients",
    "vote-pgd": "PGD on the vote",
    "certified": "certified",
}


@dataclass(frozen=True)
class Verdict:
    """What an evaluation found.

    Parameters
    ----------
    name : str
        Of the network.
    threat : ThreatModel
        The ball.
    version : str
        ``fast``, ``standard``, ``rand``, or ``vote`` for a smoothed network.
    rows : DataFrame
        One line an image: its label, and whether the network was right on the clean image and still
        stood after each attack.
    stages : DataFrame
        One line an attack: ``attack``, images ``n`` and ``correct``, ``accuracy`` in percent with
        Wilson's 95 % interval ``ci_low`` and ``ci_high``, passes an image, a note.
    checks : list of Check
        Of ``sanity``.
    notes : list of str
        What was not tried, or could not be.
    """

    name: str
    threat: ThreatModel
    version: str
    rows: pd.DataFrame
    stages: pd.DataFrame
    checks: list[Check]
    notes: list[str]

    @property
    def robust(self) -> float:
        """Accuracy in percent after all attacks: an upper bound on the robust accuracy."""
        return float(self.stages.set_index("attack").loc["worst case", "accuracy"])

    def sentences(self) -> list[str]:
        """Say in words what was found, and what the number is."""
        line = self.stages.set_index("attack")
        clean, worst = line.loc["clean"], line.loc["worst case"]
        said = [
            f"On {clean['n']:.0f} images {self.name} is right on {_percent(clean)} without an "
            f"attack, and on {_percent(worst)} under every attack tried in the ball "
            f"{self.threat.name}.",
            "The second number is an upper bound: a stronger attack may lower it, none raise it.",
        ]
        if "certified" in line.index:
            said.append(
                f"{_percent(line.loc['certified'])} are certified: no attack can change them, with "
                "an error probability of 0.001 an image."
            )
        failed = [check for check in self.checks if not check.passed]
        if failed:
            names = "; ".join(f"{c.name} ({c.finding}, expected: {c.expectation})" for c in failed)
            said.append(f"Do not rely on it: {len(failed)} checks failed: {names}.")
        elif self.checks:
            said.append(f"All {len(self.checks)} sanity checks pass.")
        return [*said, *(f"Not tried, or not possible: {note}." for note in self.notes)]

    def text(self) -> str:
        """Lay the page out as plain text."""
        table = self.stages.assign(attack=self.stages["attack"].replace(TITLES)).round(2)
        checks = [f"{'pass' if c.passed else 'FAIL'}  {c.name}: {c.finding}" for c in self.checks]
        return "\n".join([*self.sentences(), "", table.to_string(index=False), "", *checks, ""])

    def html(self) -> str:
        """Lay the page out as HTML, self-contained."""
        table = self.stages.assign(attack=self.stages["attack"].replace(TITLES)).round(2)
        checks = pd.DataFrame(self.checks, columns=list(Check._fields))
        words = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        parts = [words, table.to_html(index=False), checks.to_html(index=False)]
        title = f"{html.escape(self.name)}, {html.escape(self.threat.name)}"
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{''.join(parts)}</html>\n"
        )


STYLE = """body{font:1rem/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1.5rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .6rem;border-bottom:1px solid #ccc;text-align:left}"""


def _percent(line: Any) -> str:
    return f"{line['accuracy']:.1f} % ({line['ci_low']:.1f} to {line['ci_high']:.1f})"


def evaluate(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    threat: ThreatModel,
    *,
    attack: str = "fast",
    others: Mapping[str, Callable[..., Tensor]] | None = None,
    sigma: float | None = None,
    name: str = "the network",
    out: Path | str | None = None,
    keep_images: bool = False,
    seed: int = 0,
) -> Verdict:
    """Evaluate a defence: clean accuracy, the worst case of an ensemble, and the checks of both.

    Parameters
    ----------
    model : nn.Module
        Maps pixels in [0, 1], (B, C, H, W), to logits (B, K); normalisation belongs into it.  One
        that answers differently to the same images is judged by ``rand``.
    data : (images, labels)
        Images (N, C, H, W), uint8 or float in [0, 1], and labels (N,), int64.
    threat : ThreatModel
        Norm and radius.
    attack : {"fast", "standard", "rand"}, default="fast"
        Version of ``autoattack``.
    others : mapping of str to callable, optional
        Other attacks, ``attack(model, x, y) -> x_adv``, judged beside the ensemble on all images;
        their images must lie in the ball.
    sigma : float, optional
        Judge the smoothed network of this noise level instead: votes of 1,000 copies, PGD on the
        vote, and in ``L2`` certificates.
    name : str
        How to call the network.
    out : Path or str, optional
        Folder for rows and page; an evaluation that was stopped continues there.
    keep_images : bool, default=False
        Also write the ensemble's images there, ``images/FIRST.npz``, floats of shape (B, C, H, W).
    seed : int, default=0
        Of all random draws.

    Returns
    -------
    Verdict
        ``print(verdict.text())``; the accuracy after all attacks is an upper bound on the robust
        accuracy.

    Raises
    ------
    TypeError, ValueError
        If network, images, labels or ball do not fit each other.

    References
    ----------
    .. [1] Carlini et al., "On Evaluating Adversarial Robustness", 2019.  arXiv:1902.06705.
    .. [2] Croce, Hein, ICML 2020.  arXiv:2003.01690.
    """
    images, labels = data
    x = _floats(images[: min(len(images), 32)], model)
    model = check_attack(model, x, labels[: len(x)].to(x.device), threat)
    if attack not in VERSIONS:
        raise ValueError(f"attack={attack!r} is none of {', '.join(VERSIONS)}")
    version = "vote" if sigma else "rand" if is_random(model, x) else attack
    kept = Path(out) / "images" if out is not None and keep_images else None
    step = _ensemble(threat, version, others or {}, seed, kept)
    if sigma:
        step = _smoothed(threat, sigma, seed)
    identity = {
        **{"network": _digest(model.state_dict().values()), "data": _digest(data)},
        **{"threat": threat.name, "version": version, "others": list(others or {})},
        **{"sigma": sigma, "seed": seed, "arithmetic": arithmetic(device_of(model, x))},
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out or scratch) / "rows"
        open_results(folder, identity)
        for part in progress(missing(folder, len(images), SHARD), name):
            x, y = _floats(images[part.start : part.stop], model), labels[part.start : part.stop]
            columns = {"label": y.tolist()} | step(model, x, y.to(x.device), part.start)
            write_shard(folder, part.start, columns, provenance(x.device))
        rows = read(folder, len(images)).frame
    checks, notes = _checked(model, data, threat, version, rows, seed)
    verdict = Verdict(name, threat, version, rows, _stages(rows), checks, notes)
    if out is not None:
        atomic_write(Path(out) / "verdict.txt", verdict.text().encode())
        atomic_write(Path(out) / "verdict.html", verdict.html().encode())
    return verdict


def _floats(images: Tensor, model: nn.Module) -> Tensor:
    x = to_float(images) if images.dtype == torch.uint8 else images
    return x.to(device_of(model, x))


def _digest(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().view(-1)
        digest.update(raw.view(torch.uint8).numpy().data if raw.numel() else b"")
    return digest.hexdigest()[:16]


def is_random(model: nn.Module, x: Tensor) -> bool:
    """Whether a network answers differently to the same images."""
    with eval_mode(model):
        once, again = logits_of(model, x), logits_of(model, x)
    return bool((once - again).abs().max() > SAME * once.abs().max())


Step = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Any]]


def _ensemble(
    threat: ThreatModel,
    version: str,
    others: Mapping[str, Callable[..., Tensor]],
    seed: int,
    kept: Path | None,
) -> Step:
    """Columns of the ensemble: who stands after each attack, and what it cost."""

    def step(model: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
        draws = stream(x.device, seed, "autoattack", first)
        x_adv, stages = autoattack_stages(model, x, y, threat, version=version, generator=draws)
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(kept / f"{first:05d}.npz", images=x_adv.cpu().numpy())
        columns: dict[str, Any] = {}
        before = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for stage in stages:
            columns[stage.name] = stage.stands.long().tolist()
            for kind in ("forwards", "backwards"):
                cost = getattr(stage, kind) * before.double()
                columns[f"{stage.name} {kind}"] = cost.round(decimals=1).tolist()
            before = stage.stands
        for name, call in others.items():
            with eval_mode(model):
                made = configured(call)(
                    model, x.clone(), y.clone(), stream(x.device, seed, name, first)
                )
                _check_inside(name, made, x, threat)
                columns[name] = (~fooled(logits_of(model, made), y)).long().tolist()
        return columns

    return step


def _check_inside(name: str, made: Tensor, x: Tensor, threat: ThreatModel) -> None:
    eps = torch.as_tensor(threat.eps, device=x.device)
    if made.shape != x.shape or (threat.norm(made - x) > eps * (1 + 1e-5) + 1e-6).any():
        raise ValueError(f"{name} leaves the ball {threat.name}: its accuracies are no bounds")


def _smoothed(threat: ThreatModel, sigma: float, seed: int) -> Step:
    """Columns of a smoothed network: its vote, attacked and certified."""

    def step(model: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
        ids = range(first, first + len(x))
        label = y.cpu().numpy()

        def right(x: Tensor) -> list[int]:
            return (
                (predict(model, x, sigma, image_ids=ids, seed=seed) == label).astype(int).tolist()
            )

        draws = stream(x.device, seed, "attack on the vote", first)
        columns = {"clean": right(x)}
        x_adv = smoothed_pgd(model, x, y, threat, sigma=sigma, steps=20, generator=draws)
        columns["vote-pgd"] = right(x_adv)
        if isinstance(threat, L2):
            found = certify(model, x, sigma, n=10_000, image_ids=ids, seed=seed)
            holds = (found.prediction == label) & (found.radius >= threat.eps)
            columns["certified"] = holds.astype(int).tolist()
        return columns

    return step


PASSES = ("forwards", "backwards")


def _standing(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether each image stood after each attack, and after all of them."""
    names = [k for k in rows if k not in ("index", "label") and not k.endswith(PASSES)]
    stands = rows[names].astype(int)
    attacks = stands.drop(columns="certified", errors="ignore")
    return stands.assign(**{"worst case": attacks.min(axis=1)})


def _stages(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarise rows: one line an attack, those of the ensemble each after those before."""
    lines, stands = [], _standing(rows)
    for name in stands:
        correct, n = int(stands[name].sum()), len(rows)
        low, high = wilson(correct, n)
        line = {"attack": name, "n": n, "correct": correct, "accuracy": 100 * correct / n}
        line |= {"ci_low": 100 * low, "ci_high": 100 * high}
        for kind in PASSES:
            if f"{name} {kind}" in rows:
                line[kind] = rows[f"{name} {kind}"].astype(float).mean()
        lines.append(line)
    return pd.DataFrame(lines)


def _checked(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    threat: ThreatModel,
    version: str,
    rows: pd.DataFrame,
    seed: int,
) -> tuple[list[Check], list[str]]:
    """Check the worst case of all attacks on the first images, and say what was left out."""
    notes = []
    if version == "fast":
        notes.append("FAB and Square; attack='standard' runs them")
    if version == "rand":
        notes.append("the sanity checks: the network is random, so it was attacked in the mean")
        return [], notes
    if version == "vote":
        return [], ["the sanity checks: they are for the network itself"]
    if isinstance(threat, PixelL2):
        notes.append("FAB and Square in the pixel-l2 ball: they are for l-infinity and l2")
    notes.append("attacks made for this defence alone")
    x, y = _floats(data[0][:CHECKED], model), data[1][:CHECKED]
    stands = _standing(rows)["worst case"].to_numpy()[: len(x)]
    fallen = torch.as_tensor(stands == 0, device=x.device)
    return sanity(model.eval(), x, y.to(x.device), threat, fallen=fallen, seed=seed), notes


def seconds_at_most(model: nn.Module, data: tuple[Tensor, Tensor], version: str) -> float:
    """How long an evaluation takes where every image withstands all attacks: one pass is timed."""
    x = _floats(data[0][:SHARD], model)
    logits_of(model, x)
    started = time.perf_counter()
    for _ in range(3):
        logits_of(model, x)
    pass_ = (time.perf_counter() - started) / 3 / len(x)
    return pass_ * len(data[0]) * sum(WORST[name] for name in VERSIONS[version])


# --- what a command line names --------------------------------------------------------------------


def parse_threat(text: str) -> ThreatModel:
    """Read a ball: ``linf:8/255``, ``l2:0.5``, ``pixel-l2:0.045``.

    Examples
    --------
    >>> parse_threat("linf:8/255")
    Linf(eps=0.03137254901960784)
    """
    balls: dict[str, Any] = {"linf": Linf, "l2": L2, "pixel-l2": PixelL2}
    norm, _, radius = text.partition(":")
    try:
        return balls[norm](float(Fraction(radius)))
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(
            f"{text!r} is no ball: write linf:8/255, l2:0.5 or pixel-l2:0.045"
        ) from None


def find_data(text: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Load ``cifar10``, ``cifar10:heldout`` (default: ``test``), or a folder of images by class.

    Images of a folder come in an order drawn once, so that the first ones are of all classes; they
    have one channel where the network's first convolution takes one.
    """
    name, _, split = text.partition(":")
    if name in DATASETS:
        return load(name, split or "test")
    if Path(text).is_dir():
        first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
        grey = first is not None and first.in_channels == 1
        images, labels, _ = image_folder(text, channels=1 if grey else 3)
        order = torch.randperm(len(images), generator=stream("cpu", 0, "order of a folder"))
        return images[order], labels[order]
    raise ValueError(
        f"{text!r} is neither a data set ({', '.join(DATASETS)}) nor a folder of images"
    )


def find_network(text: str) -> nn.Module:
    """Load a shipped network by name, or call ``module:function``, which returns your own."""
    if ":" not in text:
        from rvlib.pipeline import Run

        return Run.open("lesson").model(text)
    module, _, function = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as python -m does: a file beside you is importable
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{text!r} cannot be called ({error}): write module:function") from error
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{text} returned {type(model).__name__}, not a torch.nn.Module")
    return model.eval()
