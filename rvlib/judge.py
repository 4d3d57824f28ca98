"""How do I evaluate my defence?  One call: the ensemble, the checks, a page in words."""

import inspect
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rvlib.attacks import smoothed_pgd
from rvlib.attacks.autoattack import LEFT_OUT, VERSIONS, autoattack_stages, shortcoming
from rvlib.attacks.gradient import fooled
from rvlib.checks import Doubt, apart, check_attack, check_images, check_labels, check_network
from rvlib.device import arithmetic, code_of, described, digest_of, provenance, source_of
from rvlib.evaluation import AnyAttack, checked_attack, device_of, floats
from rvlib.experiments import ALPHA, attack_record
from rvlib.inference import Wrapper, eval_mode, logits_of
from rvlib.progress import progress
from rvlib.results import atomic_write, missing, open_results, read, write_shard
from rvlib.sanity_checks import SAME, Check, check_answers, sanity
from rvlib.smoothing import certify, largest_radius, predict, stream, wilson
from rvlib.smoothing.noise import seeded
from rvlib.smoothing.statistics import check_sigma
from rvlib.threat_models import L2, Linf, ThreatModel
from rvlib.verdict import TITLES, Verdict

SHARD = 64
"""Images of a shard of rows: what a kill loses at most."""
CHECKED = 256
"""Images that the sanity checks get, at most."""
PASSES = ("forwards", "backwards")
COSTS = tuple(f" {kind}" for kind in PASSES)
"""Ends of the names of columns of passes."""
RESERVED = {"index", "label", "worst case", *TITLES}
"""Names of columns, which an attack of the user's own may not take."""
CERTIFYING = 10_000
"""Votes of a certificate."""


def evaluate(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    threat: ThreatModel,
    *,
    attack: str = "fast",
    others: Mapping[str, AnyAttack] | None = None,
    sigma: float | None = None,
    name: str = "the network",
    out: Path | str | None = None,
    keep_images: bool = False,
    shard: tuple[int, int] = (1, 1),
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
        Other attacks, ``attack(model, x, y) -> x_adv``, judged beside the ensemble on all images,
        through ``checked_attack``: their images must lie in ball and box.
    sigma : float, optional
        Judge the smoothed network of this noise level instead: votes of 1,000 copies, PGD on the
        vote, and in ``L2`` certificates.
    name : str, default="the network"
        What the page calls it.
    out : Path or str, optional
        Folder for rows and page; an evaluation that was stopped continues there.
    keep_images : bool, default=False
        Also write the ensemble's images there, ``images/FIRST.npz``, floats of shape (B, C, H, W).
    shard : (k, n), default=(1, 1)
        Attack the k-th of n parts of the images, into the same `out`; the rows do not depend on n.
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
    Incomplete
        If rows of other parts are missing; this part's are then written.

    References
    ----------
    .. [1] Carlini et al., "On Evaluating Adversarial Robustness", 2019.  arXiv:1902.06705.
    .. [2] Croce, Hein, ICML 2020.  arXiv:2003.01690.
    """
    others = others or {}
    check_given(model, data)
    _check_options(threat, attack, others, sigma, keep_images)
    if out is None and (keep_images or shard != (1, 1)):
        raise ValueError("images and parts of an evaluation are kept in a folder: give out")
    images, labels = data
    x = floats(images[:32], model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = check_attack(model, x, labels[: len(x)].to(x.device), threat)
        check_network(model, x, check_labels(labels.to(images.device), images))
    said = {str(warning.message): warning for warning in caught}  # by the network's code, too
    for warning in said.values():
        warnings.warn(warning.message, stacklevel=2)
    doubts = [words for words, warning in said.items() if issubclass(warning.category, Doubt)]
    kept = Path(out) / "images" if out is not None and keep_images else None
    if sigma is not None:
        version, step = "vote", _smoothed(threat, sigma, seed)
    else:
        version = "rand" if (random := is_random(model, x)) else attack
        with eval_mode(model):
            if not random:
                check_answers(model, x)
        step = _ensemble(threat, version, others, seed, kept)
    identity = {
        **{"network": network_digest(model), "data": digest_of(data)},
        **{"threat": threat.name, "ball": _ball(threat), "version": version},
        "others": {name: _described(call) for name, call in others.items()},
        **{"sigma": sigma, "seed": seed, "arithmetic": arithmetic(device_of(model, x))},
    }
    with tempfile.TemporaryDirectory() as scratch, _said_once(doubts):
        folder = Path(out or scratch) / "rows"
        open_results(folder, identity)
        parts = missing(folder, len(images), SHARD, shard)
        if kept is not None:  # rows that were measured without images are measured again
            open_results(kept, identity)
            every = missing(kept, len(images), SHARD, shard)
            parts = [p for p in every if p in parts or not _images_of(kept, p.start).exists()]
        for part in progress(parts, name):
            x, y = floats(images[part.start : part.stop], model), labels[part.start : part.stop]
            with seeded(x.device, seed, "network", part.start):
                columns = {"label": y.tolist()} | step(model, x, y.to(x.device), part.start)
            write_shard(folder, part.start, columns, provenance(x.device))
        rows = read(folder, len(images)).frame
        checks, notes = _checked(model, data, threat, version, rows, seed)
    if sigma is not None and isinstance(threat, L2):
        notes += _out_of_reach(threat, sigma)
    verdict = Verdict(name, threat, version, rows, _stages(rows), checks, notes, doubts)
    if out is not None:
        atomic_write(Path(out) / "verdict.txt", verdict.text().encode())
        atomic_write(Path(out) / "verdict.html", verdict.html().encode())
    return verdict


def _check_options(
    threat: Any, attack: str, others: Mapping[str, Any], sigma: Any, keep_images: bool
) -> None:
    """Refuse what does not fit together, or is no name of a version or attack."""
    if attack not in VERSIONS:
        raise ValueError(f"attack={attack!r} is none of {', '.join(VERSIONS)}")
    eps = getattr(threat, "eps", None)
    if isinstance(eps, Tensor):
        raise ValueError("the ball has a radius for each image: evaluate with one for all")
    if sigma is None and eps == 0:
        raise ValueError("eps=0: no attack moves anything in this ball, write Linf(8 / 255), say")
    if sigma is not None:
        check_sigma(sigma)
        if others:
            raise ValueError("other attacks are for the network itself: leave out others, or sigma")
        if keep_images or attack != "fast":
            told = "attack and keep_images are for the network itself: omit them, or sigma"
            raise ValueError(told)
    if taken := sorted(k for k in others if k in RESERVED or k.endswith(COSTS)):
        raise ValueError(f"an attack of your own is called {taken[0]!r}, as a column is: rename it")
    if odd := [k for k in others if not k.isprintable()]:
        raise ValueError(f"an attack of your own is called {odd[0]!r}: use letters and spaces")


def check_given(model: Any, data: Any) -> None:
    """Refuse what is no network, or no images with labels, pixels in [0, 1]."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the network is {type(model).__name__}, not a torch.nn.Module")
    if not (isinstance(data, tuple) and [isinstance(part, Tensor) for part in data] == [True] * 2):
        raise TypeError("data is no pair of tensors (images, labels); of a DataLoader, join them")
    if data[0].is_floating_point():  # all of them, before any work
        check_images(data[0])


@contextmanager
def _said_once(doubts: list[str]) -> Iterator[None]:
    """Silence warnings that every attack and every check would give again."""
    with warnings.catch_warnings():
        for doubt in doubts:
            warnings.filterwarnings("ignore", re.escape(doubt))
        yield


def _described(attack: Callable[..., Tensor]) -> dict[str, Any]:
    """Describe an attack by its options and its source: rows of another one are not continued."""
    return attack_record("", attack) | {"code": digest_of([], _told(attack))}


def _ball(threat: ThreatModel) -> Any:
    """Describe a ball by all that it holds, one of your own by its source, too."""
    if type(threat).__module__ == ThreatModel.__module__:
        return described(threat)
    return [described(threat), digest_of([], source_of(threat))]


def _out_of_reach(threat: L2, sigma: float) -> list[str]:
    """Say so where even votes that all agree certify less than the radius."""
    cap = largest_radius(CERTIFYING, ALPHA, sigma)
    if cap >= threat.eps:
        return []
    reached = f"{CERTIFYING:,} votes at σ = {sigma:g} reach {cap:.2f}"
    return [f"certificates: {reached}, not {threat.eps:g}"]


def network_digest(model: nn.Module, known: frozenset[nn.Module] = frozenset()) -> str:
    """Digest of what a network computes: its weights, its modules, what they hold, their code.

    Networks that are `known` count for nothing where a module holds them: another one has them.
    """
    known |= {*model.modules()}
    state: dict[str, Any] = {**model.state_dict(), **dict(model.named_buffers())}
    own = [_module(m, known) for m in model.modules() if not isinstance(m, Wrapper)]
    own += [f"{k} {_told(v, known)}" for k, v in state.items() if not isinstance(v, Tensor)]
    tensors = [v for v in state.values() if isinstance(v, Tensor)]
    return digest_of(tensors, "\n".join([_shown(model), *state, *own]))


def _module(module: nn.Module, known: frozenset[nn.Module]) -> str:
    """Options and code of a module, and what it holds beside weights, modules and classes."""
    if isinstance(module, torch.jit.ScriptModule):  # a part that is never called has no graph
        graph = str(getattr(module, "graph", ""))
        return re.sub(r" # .*|\.___torch_mangle_\d+", "", graph)  # where it was written, and when
    if type(module).__module__.startswith("torch._dynamo."):  # what it compiled is a module, too
        return ""
    torchs = type(module).__module__.startswith("torch.")
    kept, held = {}, []
    for name, value in vars(module).items():
        if isinstance(value, bool | int | float | str):
            kept[name] = value
        elif name.endswith("_hooks") and isinstance(value, dict):
            held += [_told(hook, known) for hook in value.values()]
        elif callable(value) or not (torchs or value is None or name in vars(nn.Module())):
            held += [] if isinstance(value, type) else [f"{name} {_told(value, known)}"]
    kept.pop("training", None)
    if isinstance(module, torch.fx.GraphModule):
        held.append(str(module.code))
    classes = [] if torchs else [c for c in type(module).__mro__ if c not in nn.Module.__mro__]
    code = "\n".join(map(code_of, classes))
    return "\n".join([f"{kept} {code}", *held])


def _told(thing: Any, known: frozenset[nn.Module] = frozenset()) -> str:
    """Options of an attack, or of what a module holds, and its source if it is code."""
    source = code_of(getattr(thing, "func", thing)) if callable(thing) else ""
    return f"{source} {described(thing, partial(_options, known=known))}"


def _options(part: Any, known: frozenset[nn.Module]) -> Any:
    """Tell an object from others of its class: by its attributes, a network by its digest."""
    if isinstance(part, nn.Module):
        return {} if part in known else network_digest(part, known)
    if isinstance(part, type | ModuleType) or inspect.isroutine(part):
        return {}
    if isinstance(part, logging.Logger):  # which knows all others, and what they have said
        return {"name": part.name}
    return vars(part) if hasattr(part, "__dict__") else {"shown": _shown(part)}


def _shown(thing: Any) -> str:
    """Print a thing, without addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+|\[\d{9,}\]", "", repr(thing))


def is_random(model: nn.Module, x: Tensor) -> bool:
    """Whether a network answers differently to the same images."""
    with eval_mode(model):
        once, again = logits_of(model, x), logits_of(model, x)
    return apart(once, again, SAME)


def _images_of(kept: Path, first: int) -> Path:
    return kept / f"{first:05d}.npz"


Step = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Any]]


def _ensemble(
    threat: ThreatModel, version: str, others: Mapping[str, AnyAttack], seed: int, kept: Path | None
) -> Step:
    """Columns of the ensemble: who stands after each attack, and what it cost."""

    def step(model: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
        draws = stream(x.device, seed, "autoattack", first)
        x_adv, stages = autoattack_stages(model, x, y, threat, version=version, generator=draws)
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            np.savez_compressed(file, images=x_adv.float().cpu().numpy())
            atomic_write(_images_of(kept, first), file.getvalue())
        columns: dict[str, Any] = {}
        before = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for stage in (stage for stage in stages if stage.note != LEFT_OUT):
            columns[stage.name] = stage.stands.long().tolist()
            for kind in PASSES:
                cost = getattr(stage, kind) * before.double()
                columns[f"{stage.name} {kind}"] = cost.round(decimals=1).tolist()
            before = stage.stands
        for name, call in others.items():
            draws = stream(x.device, seed, name, first)
            with eval_mode(model):
                try:
                    made = checked_attack(call, threat)(model, x, y, draws)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{name}: {error}") from error
                columns[name] = (~fooled(logits_of(model, made), y)).long().tolist()
        return columns

    return step


def _smoothed(threat: ThreatModel, sigma: float, seed: int) -> Step:
    """Columns of a smoothed network: its vote, attacked and certified."""

    def step(model: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
        ids = range(first, first + len(x))
        label = y.cpu().numpy()

        def right(x: Tensor) -> list[int]:
            answers = predict(model, x, sigma, image_ids=ids, seed=seed)
            return (answers == label).astype(int).tolist()

        draws = stream(x.device, seed, "attack on the vote", first)
        columns = {"clean": right(x)}
        x_adv = smoothed_pgd(model, x, y, threat, sigma=sigma, steps=20, generator=draws)
        columns["vote-pgd"] = right(x_adv)
        if isinstance(threat, L2):
            found = certify(model, x, sigma, n=CERTIFYING, alpha=ALPHA, image_ids=ids, seed=seed)
            holds = (found.prediction == label) & (found.radius >= threat.eps)
            columns["certified"] = holds.astype(int).tolist()
        return columns

    return step


def _standing(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether each image stood after each attack, and after all of them."""
    names = [k for k in rows if k not in ("index", "label") and not k.endswith(COSTS)]
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
    if version == "rand" and is_random(model, floats(data[0][:32], model)):
        return [], ["the sanity checks: the network is random, so it was attacked in the mean"]
    if version == "vote":
        return [], ["the sanity checks: they are for the network itself"]
    notes = []
    if not isinstance(threat, Linf | L2):
        notes.append(f"FAB and Square: they are for l-infinity and l2, not for {threat.name}")
    elif version != "standard":
        notes.append("FAB, and Square beyond the checks (attack='standard' runs both)")
    x, y = floats(data[0][:CHECKED], model), data[1][:CHECKED]
    stands = _standing(rows)["worst case"].to_numpy()[: len(x)]
    fallen = torch.as_tensor(stands == 0, device=x.device)
    with eval_mode(model):
        others = logits_of(model, x[:1]).shape[1] - 1
        for name in VERSIONS[version]:
            said = shortcoming(name, others, threat)
            if said not in ("", LEFT_OUT):
                notes.append(f"{TITLES[name]}, with {said}")
        notes.append("attacks made for this defence alone")
        return sanity(model, x, y.to(x.device), threat, fallen=fallen, seed=seed), notes
