"""Planted faults: each is put into a copy of the library, where a test must fail.

``make mutants`` runs all, ``python -m tests.mutants NAME...`` some.  The working tree is never
touched.  The faults are such as move a number without a crash: a step without its projection, a
bound of the wrong side, votes that count twice, a training resumed without its momentum.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from rvlib.device import provenance

ROOT = Path(__file__).parents[1]
COPIED = (
    "rvlib",
    "tests",
    "pyproject.toml",
    "docs/messages.md",
    "report/models",
    "report/profiles",
)
RECORD = Path("report/mutants.json")
AT_ONCE = 2
TIMEOUT = 120
"""Seconds; a mutant whose tests take longer is seen, too: they hang."""


@dataclass(frozen=True)
class Mutant:
    """One fault: a text that stands once in a file, what is put there, and who should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def change(self, source: str) -> str:
        """Plant the fault in the file's text."""
        times = source.count(self.old)
        if times != 1:
            raise ValueError(
                f"{self.name}: its text stands {times} times in {self.file}, not once; "
                f"write the mutant anew for what is there now: {self.old!r}"
            )
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the test that failed, or why there is none."""

    name: str
    file: str
    killed_by: str | None
    problem: str
    seconds: float


def _mutants(file: str, tests: Iterable[str], texts: dict[str, tuple[str, str]]) -> list[Mutant]:
    where = tuple(f"tests/{test}.py" for test in tests)
    return [Mutant(name, file, old, new, where) for name, (old, new) in texts.items()]


ATTACKS = (
    _mutants(
        "rvlib/attacks/ascent.py",
        ["attacks/test_ascent", "attacks/test_attacks", "attacks/test_pgd"],
        {
            "steps-not-projected": (
                "x_adv = (x + threat.project(x_adv - x)).clamp(0, 1)",
                "x_adv = x_adv.clamp(0, 1)",
            ),
            "box-before-ball": (
                "x_adv = (x + threat.project(x_adv - x)).clamp(0, 1)",
                "x_adv = x + threat.project(x_adv.clamp(0, 1) - x)",
            ),
            "ball-around-the-start": (
                "x_adv = (x + threat.project(x_adv - x)).clamp(0, 1)",
                "x_adv = (start + threat.project(x_adv - start)).clamp(0, 1)",
            ),
            "attack-goes-downhill": (
                "x_adv + step_size * threat.steepest(",
                "x_adv - step_size * threat.steepest(",
            ),
            "one-step-too-few": ("for _ in range(steps):", "for _ in range(max(1, steps - 1)):"),
            "gradient-lost-where-sure": (
                "return F.softplus(others - logits.gather(1, label)[:, 0])",
                'return F.cross_entropy(logits, y, reduction="none")',
            ),
            "attack-in-training-mode": (
                "with frozen(model), answering(model, largest_label):",
                "with answering(model, largest_label):",
            ),
            "shorter-default-step": (
                "return 2.5 * threat.eps / steps",
                "return threat.eps / steps",
            ),
        },
    )
    + _mutants(
        "rvlib/attacks/ascent.py",
        ["test_survivors"],
        {
            "gradient-of-the-mean": (
                "cross_entropy_gradients(logits.detach(), y))",
                "cross_entropy_gradients(logits.detach(), y) / len(x))",
            ),
        },
    )
    + _mutants(
        "rvlib/attacks/pgd.py",
        ["attacks/test_pgd", "attacks/test_attacks"],
        {
            "start-outside-the-box": ("(x + delta).clamp(0, 1)[chosen]", "(x + delta)[chosen]"),
            "start-of-another-image": (
                "(x + delta).clamp(0, 1)[chosen]",
                "(x + delta).clamp(0, 1)[: int(chosen.sum())]",
            ),
            "restarts-keep-the-last": (
                "return torch.where(take_b[:, None, None, None], b, a)",
                "return b",
            ),
            "restarts-judged-by-loss-alone": (
                "return torch.where(logits.argmax(1) == y, loss, torch.inf)",
                "return loss",
            ),
            "restarts-keep-the-weaker": (
                "_loss_if_standing(model, b, y) > _loss_if_standing(model, a, y)",
                "_loss_if_standing(model, b, y) < _loss_if_standing(model, a, y)",
            ),
        },
    )
    + _mutants(
        "rvlib/attacks/smoothed.py",
        ["attacks/test_smoothed", "test_survivors"],
        {
            "mean-of-logs": (
                "loss = -log_probability.view(noise.shape[:2]).logsumexp(1)",
                "loss = -log_probability.view(noise.shape[:2]).mean(1)",
            ),
            "same-noise-every-step": (
                "return vote_loss_gradient(model, x_t, y, sigma, draws, generator)",
                "return vote_loss_gradient(\n"
                "            model, x_t, y, sigma, draws, generator and generator.manual_seed(0)\n"
                "        )",
            ),
            "attacked-copies-clipped": (
                "copies = (pixels + sigma * noise).flatten(0, 1)",
                "copies = (pixels + sigma * noise).clamp(0, 1).flatten(0, 1)",
            ),
            "attacked-noise-of-variance-squared": ("sigma * noise", "sigma**2 * noise"),
            "copies-with-others-labels": (
                "y.repeat_interleave(noise.shape[1])",
                "y.repeat(noise.shape[1])",
            ),
        },
    )
    + _mutants(
        "rvlib/attacks/withstand.py",
        ["attacks/test_withstand", "test_survivors"],
        {
            "fooled-but-came-back": (
                "at = (logits.argmax(1) == y).nonzero()[:, 0]",
                "at = torch.arange(len(y))",
            ),
            "index-lost-after-filtering": (
                "stands[alive[_reads(model, x_t, y)]] = True",
                "stands[: len(alive)] = _reads(model, x_t, y)",
            ),
            "standing-written-in-front": (
                "standing[at] = torch.cat(stands)",
                "standing[: len(at)] = torch.cat(stands)",
            ),
            "others-starts-after-filtering": (
                "(x + delta).clamp(0, 1)[at]",
                "(x + delta).clamp(0, 1)[: len(at)]",
            ),
            "last-iterate-not-read": (
                "stands[alive[_reads(model, x_t, y)]] = True",
                "stands[alive] = True",
            ),
        },
    )
    + _mutants(
        "rvlib/attacks/square.py",
        ["attacks/test_square"],
        {
            "square-out-of-the-box": (
                "(x[at] + threat.eps * sides[at]).clamp(0, 1)",
                "x[at] + threat.eps * sides[at]",
            ),
            "square-from-where-it-is": (
                "moved = (x[at] + threat.eps",
                "moved = (best[at] + threat.eps",
            ),
            "worse-squares-kept": ("lower = found < margin[at]", "lower = found != margin[at]"),
            "squares-as-if-all-stood": (
                "torch.where(window[at], moved, best[at])",
                "torch.where(window[: len(at)], moved, best[at])",
            ),
        },
    )
)

BALLS = _mutants(
    "rvlib/threat_models.py",
    ["test_threat_models"],
    {
        "l2-over-the-whole-batch": (
            "length = self.norm(delta)[:, None, None, None]",
            "length = delta.norm()",
        ),
        "l2-is-pixel-l2": (
            "return delta.flatten(1).norm(dim=1)",
            "return delta.norm(dim=1).flatten(1).amax(1)",
        ),
        "pixel-l2-over-rows": (
            "return delta.norm(dim=1).flatten(1).amax(1)",
            "return delta.norm(dim=2).flatten(1).amax(1)",
        ),
        "l2-sample-crowds-the-centre": ("uniform ** (1 / x[0].numel())", "uniform"),
        "l2-sample-by-size-of-batch": (
            "uniform ** (1 / x[0].numel())",
            "uniform ** (1 / x.numel())",
        ),
        "pixel-l2-sample-of-two-channels": (
            "uniform ** (1 / x.shape[1])",
            "uniform ** (1 / 2)",
        ),
        "linf-sample-of-one-side": (
            "return (2 * uniform - 1) * self.eps",
            "return uniform * self.eps",
        ),
        "linf-open-below": ("delta.clamp(-self.eps, self.eps)", "delta.clamp(max=self.eps)"),
        "linf-radius-over-255": (
            "delta.clamp(-self.eps, self.eps)",
            "delta.clamp(-self.eps / 255, self.eps / 255)",
        ),
    },
)

VOTES = (
    _mutants(
        "rvlib/grid_noise.py",
        ["test_grid_noise"],
        {
            "grid-off-by-half-a-step": (
                "(k + mpmath.mpf(1) / 2) / scale",
                "mpmath.mpf(k) / scale",
            ),
            "unsure-taken-for-sure": (
                "torch.where(low == high, low, UNSURE)",
                "low",
            ),
            "off-the-grid-taken": ("if off > 1e-3:", "if off > 1:"),
            "ends-beyond-all-bits": ("ncdf(z))), 2**BITS - 1)", "ncdf(z))), 2**BITS)"),
        },
    )
    + _mutants(
        "rvlib/smoothing/certificate.py",
        ["smoothing/test_certificate"],
        {
            "bound-of-two-sides": ("beta.ppf(alpha,", "beta.ppf(alpha / 2,"),
            "upper-bound-for-lower": ("beta.ppf(alpha,", "beta.ppf(1 - alpha,"),
            "one-success-more": (
                "np.maximum(k, 1), n - np.maximum(k, 1) + 1)",
                "np.maximum(k, 1) + 1, n - np.maximum(k, 1) + 1)",
            ),
            "vote-of-one-side": ("2 * binom.sf(n_a - 1,", "binom.sf(n_a - 1,"),
            "vote-without-its-own-count": ("binom.sf(n_a - 1,", "binom.sf(n_a,"),
            "runner-up-is-all-others": ("n_a + n_b, 0.5)", "counts.sum(1), 0.5)"),
            "abstention-is-an-answer": (
                "np.where(radius > 0, selected, ABSTAIN)",
                "np.where(radius >= 0, selected, ABSTAIN)",
            ),
            "class-selected-on-the-estimate": (
                "selected = counts0.argmax(1)",
                "selected = counts.argmax(1)",
            ),
            "selection-counted-in-the-estimate": (
                "lower_confidence_bound(k, n, alpha)",
                "lower_confidence_bound(k + counts0.max(1), n + counts0.sum(1), alpha)",
            ),
            "radius-times-sigma-twice": ("return sigma * norm.ppf(", "return sigma**2 * norm.ppf("),
        },
    )
    + _mutants(
        "rvlib/smoothing/algorithms.py",
        ["smoothing/test_algorithms"],
        {
            "estimate-on-the-selections-noise": ('purpose="estimation"', 'purpose="selection"'),
        },
    )
    + _mutants(
        "rvlib/smoothing/votes.py",
        ["smoothing/test_votes", "test_stemmed"],
        {
            "every-hundred-the-same-noise": (
                "stream(device, *address, k)",
                "stream(device, *address)",
            ),
            "noise-of-variance-squared": ("noise.mul_(sigma)", "noise.mul_(sigma**2)"),
            "noisy-copies-clipped": (
                "pairs = of_image[image : image + images, None] + of_noise",
                "pairs = (of_image[image : image + images, None] + of_noise).clamp(0, 1)",
            ),
            "votes-of-another-tile": (
                "counts[image : image + images].scatter_add_(",
                "counts[: len(pairs)].scatter_add_(",
            ),
            "bias-of-the-stem-twice": (
                "of_image = network.stem(pixels) - network.stem(torch.zeros_like(pixels[:1]))",
                "of_image = network.stem(pixels)",
            ),
        },
    )
    + _mutants(
        "rvlib/smoothing/sequential.py",
        ["smoothing/test_sequential", "test_survivors"],
        {
            "mixture-not-normalised": (
                "- (n - k) * math.log1p(-p0) - math.log1p(-p0)",
                "- (n - k) * math.log1p(-p0)",
            ),
            "peeking-with-a-fixed-bound": (
                "certified[where] = evidence(successes[where], n, p0) >= math.log(1 / alpha)",
                "certified[where] = beta.ppf(\n"
                "            alpha, np.maximum(successes[where], 1), n - successes[where] + 1\n"
                "        ) > p0",
            ),
            "the-same-votes-again": ("first=n,", "first=0,"),
            "votes-of-whoever-leads": (
                "counts.gather(1, prediction[at, None])[:, 0].numpy()",
                "counts.amax(1).numpy()",
            ),
            "selection-costs-nothing": (
                "np.full(len(x), n0, dtype=np.int64)",
                "np.zeros(len(x), dtype=np.int64)",
            ),
        },
    )
    + _mutants(
        "rvlib/noise.py",
        ["test_noise"],
        {
            "addresses-run-together": (
                "repr(address).encode()",
                '"".join(map(str, address)).encode()',
            ),
            "few-streams": ("& (2**63 - 1)", "& (2**8 - 1)"),
        },
    )
    + _mutants(
        "rvlib/stemmed.py",
        ["test_stemmed"],
        {
            "hooks-passed-by": (
                "hooks = (module._forward_hooks or module._forward_pre_hooks for",
                "hooks = (module._forward_hooks for",
            ),
            "hooks-inside-passed-by": ("for module in model.modules())", "for module in [model])"),
            "another-stem-passed-by": ("all(part is forward for part in parts)", "True"),
        },
    )
    + _mutants(
        "rvlib/smoothing/exact_stem.py",
        ["smoothing/test_exact_stem"],
        {
            "two-digits-of-three": ("DIGITS = 3", "DIGITS = 2"),
            "sums-of-digits-rounded": (").double() / BASE**j", ") / BASE**j"),
            "weights-not-in-digits": ("found = (rest / unit).round()", "found = rest / unit"),
            "bound-of-the-sum-alone": (
                "_changed(digit, torch.abs).stem(steps)",
                "digit.stem(steps)",
            ),
            "a-gpu-trusted-to-add": ('x.device.type != "cpu" or ', ""),
            "bias-lost": ("torch.add(self._bias, z.float(), alpha=1 / GRID)", "z.float() / GRID"),
        },
    )
)

NUMBERS = (
    _mutants(
        "rvlib/evaluation/accuracy.py",
        ["evaluation/test_accuracy", "report/test_tables"],
        {
            "abstentions-left-out": (
                "return 100 * self.correct / self.n\n",
                "return 100 * self.correct / max(1, self.n - self.abstained)\n",
            ),
        },
    )
    + _mutants(
        "rvlib/evaluation/certified.py",
        ["evaluation/test_certified"],
        {
            "radius-not-reached-at-itself": ("(radii[:, None] >= ", "(radii[:, None] > "),
            "average-over-the-certified-alone": (
                "np.maximum(radii, 0).mean()",
                "radii[radii >= 0].mean()",
            ),
            "wrong-answers-certified": (
                "(answers == labels) & (answers != ABSTAIN)",
                "answers != ABSTAIN",
            ),
        },
    )
    + _mutants(
        "rvlib/evaluation/empirical.py",
        ["evaluation/test_empirical", "test_survivors"],
        {
            "parts-attacked-otherwise-than-the-whole": (
                'stream(device, seed, "attack", first_id + first)',
                'stream(device, seed, "attack", first)',
            ),
            "attacked-away-from-its-own-answer": (
                "attack(model, x, y, stream(",
                "attack(model, x, model(x).argmax(1), stream(",
            ),
        },
    )
    + _mutants(
        "rvlib/evaluation/empirical.py",
        ["test_bad_input"],
        {
            "attacked-images-not-looked-at": ("        _check_attacked(x_adv, x)\n", ""),
        },
    )
    + _mutants(
        "rvlib/evaluation/external.py",
        ["evaluation/test_external"],
        {
            "ball-of-others-trusted": (
                "if not length <= self.threat.eps + SLACK:",
                "if length > 2 * self.threat.eps + SLACK:",
            ),
            "box-of-others-trusted": (
                "if not (low >= -SLACK and high <= 1 + SLACK):",
                "if low < -SLACK:",
            ),
            "randomness-of-the-day": ("torch.manual_seed(int(seed))", "torch.seed()"),
        },
    )
    + _mutants(
        "rvlib/evaluation/sanity.py",
        ["evaluation/test_sanity"],
        {
            "comparison-the-wrong-way": (
                "alone = int((weak & ~strong).sum())",
                "alone = int((strong & ~weak).sum())",
            ),
            "few-images-excused": (
                "math.ceil(len(self.x) / 100) if len(self.x) >= FEW else 0",
                "math.ceil(len(self.x) / 100)",
            ),
            "gradients-of-zero-usable": (
                "usable = gradient.isfinite().all(1) & (gradient != 0).any(1)",
                "usable = gradient.isfinite().all(1)",
            ),
            "eight-bits-out-of-the-ball": (
                "(LEVELS * x_adv).round().clamp(low, high) / LEVELS",
                "(LEVELS * x_adv).round() / LEVELS",
            ),
            "training-mode-taken": ("    if training:\n        names", "    if 0:\n        names"),
            "second-answer-not-compared": (
                "one, other = _logits(model, x), _logits(model, x)",
                "one = other = _logits(model, x)",
            ),
        },
    )
    + _mutants(
        "rvlib/evaluation/inside.py",
        ["evaluation/test_inside"],
        {
            "half-the-certified-radius": (
                "L2(share * float(certificates.radius[i]))",
                "L2(0.5 * share * float(certificates.radius[i]))",
            ),
            "abstention-taken-for-a-change": (
                "(answers == ABSTAIN) + 2 * ((answers != ABSTAIN) & (answers != prediction))",
                "2 * (answers != prediction)",
            ),
            "uncertified-images-voted-on": ("    counts[~found] = 0\n", ""),
        },
    )
    + _mutants(
        "rvlib/evaluation/smoothed.py",
        ["evaluation/test_smoothed"],
        {
            "first-votes-counted-twice": (
                'sample(going_on, n - smaller, smaller, "estimation")',
                'sample(going_on, n - smaller, 0, "estimation")',
            ),
        },
    )
    + _mutants(
        "rvlib/report/curves.py",
        ["report/test_curves", "test_survivors"],
        {
            "unsampled-images-certified-at-zero": (
                "np.full(len(labels), -1.0)",
                "np.zeros(len(labels))",
            ),
            "figure-of-votes-that-select-themselves": (
                "certificate(selection[sampled], counts[sampled], alpha, sigma)",
                "certificate(counts[sampled], counts[sampled], alpha, sigma)",
            ),
        },
    )
    + _mutants(
        "rvlib/intervals.py",
        ["test_intervals"],
        {
            "wilson-of-one-side": (
                "z = norm.isf((1 - confidence) / 2)",
                "z = norm.isf(1 - confidence)",
            ),
            "wilson-without-its-correction": (" + z * z / (4 * n * n))", ")"),
            "wilson-around-the-share": ("middle = share + z * z / (2 * n)", "middle = share"),
            "seed-of-the-mean-not-of-a-run": (
                "math.sqrt(1 + 1 / len(shares))",
                "math.sqrt(1 / len(shares))",
            ),
            "one-sample-for-two": ("2 * mean * (1 - mean) / n", "mean * (1 - mean) / n"),
            "one-degree-of-freedom-more": (
                "t.isf(tail, len(shares) - 1)",
                "t.isf(tail, len(shares))",
            ),
        },
    )
)

STATE = (
    _mutants(
        "rvlib/frozen.py",
        ["test_frozen"],
        {
            "gradients-wanted-of-all": (
                "parameter.requires_grad_(requires_grad)",
                "parameter.requires_grad_(True)",
            ),
            "modes-by-the-outermost": (
                "module.training = training",
                "module.training = modes[0][1]",
            ),
            "not-given-back-after-an-error": (
                "    finally:\n        for module, training in modes:",
                "    except ArithmeticError:\n        raise\n    else:\n"
                "        for module, training in modes:",
            ),
            "every-failure-laid-on-the-images": ("if _takes(model, x):", "if 0:"),
        },
    )
    + _mutants(
        "rvlib/memory.py",
        ["test_memory"],
        {
            "budget-ignored": (
                "max(1, min(most, budget(x.device) // max(1, known[kind])))",
                "max(1, most)",
            ),
            "gradient-taken-for-free": (
                "kind = (tuple(x.shape[1:]), x.dtype, x.device, gradient)",
                "kind = (tuple(x.shape[1:]), x.dtype, x.device)",
            ),
        },
    )
    + _mutants(
        "rvlib/rows.py",
        ["test_rows", "test_survivors"],
        {
            "identity-not-compared": (
                'if found.head.get("identity") != identity:',
                'if found.head.get("identity", {}).keys() != identity.keys():',
            ),
            "cut-row-taken-for-whole": (
                'content[: content.rfind(b"\\n") + 1].decode()',
                "content.decode()",
            ),
            "unit-cut-short-kept": (
                "self._go_on(found - found % unit, provenance)",
                "self._go_on(found, provenance)",
            ),
            "rows-not-synced": ("os.fsync(file.fileno())", "pass"),
            "who-went-on-is-not-told": ("if further:\n", "if False:\n"),
            "told-of-rows-that-are-gone": ('if told["from"] < keep]', "]"),
            "heads-not-looked-at": ("        _check_head(head)\n", ""),
        },
    )
    + _mutants(
        "rvlib/stages/measure.py",
        ["stages/test_measure"],
        {
            "rows-of-another-seed-gone-on-with": ('        "seed": place.seed,\n', ""),
            "rows-of-other-weights-gone-on-with": (
                'read_record(weights_path(place.models, model, seed))["sha256"]',
                "model",
            ),
            "ended-within-other-memory": (
                "return told if isinstance(told, int) and told > 0 else now",
                "return now",
            ),
            "ended-in-other-threads": (
                "repeatable(place.device, threads)",
                "repeatable(place.device)",
            ),
        },
    )
    + _mutants(
        "rvlib/stages/train.py",
        ["stages/test_train"],
        {
            "threads-as-they-come": ("THREADS = 1\n", "THREADS = None\n"),
            "pools-that-outlive-their-parent": (", initializer=end_with_parent", ""),
        },
    )
    + _mutants(
        "rvlib/files.py",
        ["resume/test_alone"],
        {
            "a-late-sweep-takes-a-lock": (
                "if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):",
                "if _lock(descriptor):",
            ),
            "no-patience-with-a-sweep": ("A_SWEEP = 0.2", "A_SWEEP = -1.0"),
        },
    )
    + _mutants(
        "rvlib/device.py",
        ["test_device"],
        {
            "autocast-not-said": ("if torch.is_autocast_enabled(device.type):", "if False:"),
            "threads-not-given-back": (
                "if torch.get_num_threads() != before:",
                "if torch.get_num_threads() > before:",
            ),
        },
    )
    + _mutants(
        "rvlib/models/weights.py",
        ["models/test_weights"],
        {
            "digest-not-compared": (
                'if digest != record["sha256"]:',
                'if len(digest) != len(record["sha256"]):',
            ),
        },
    )
    + _mutants(
        "rvlib/models/weights.py",
        ["test_properties_training"],
        {
            "weights-half-loaded": (
                "if {name: value.shape for name, value in state.items()} != shapes:",
                "if state.keys() != shapes.keys():",
            ),
        },
    )
)

TRAINING = (
    _mutants(
        "rvlib/training.py",
        ["test_training"],
        {
            "checkpoint-of-other-images": ('"data": _sum(train)', '"data": ""'),
            "checkpoint-of-another-device": (
                "except (RuntimeError, TypeError) as error:",
                "except KeyError as error:",
            ),
            "resumed-without-momentum": (
                'self.optimizer.load_state_dict(saved["optimizer"])',
                "pass",
            ),
            "resumed-with-noise-drawn-anew": ('self.noise.set_state(saved["noise"])', "pass"),
            "resumed-with-order-drawn-anew": ('self.order.set_state(saved["order"])', "pass"),
            "an-epoch-counted-twice": (
                "range(len(state.fit.history), epochs)",
                "range(max(0, len(state.fit.history) - 1), epochs)",
            ),
            "best-weights-move-on": ("copy.deepcopy(model.state_dict())", "model.state_dict()"),
            "best-of-equals-is-the-last": (
                "if entry.get(select, 0.0) > best:",
                "if entry.get(select, 0.0) >= best:",
            ),
        },
    )
    + _mutants(
        "rvlib/objectives/adversarial.py",
        ["objectives/test_objectives"],
        {
            "weights-swapped": (
                "[clean_weight, 1 - clean_weight]",
                "[1 - clean_weight, clean_weight]",
            ),
        },
    )
    + _mutants(
        "rvlib/objectives/gaussian.py",
        ["objectives/test_objectives"],
        {
            "one-noise-for-all-images": (
                "torch.empty_like(x).normal_(",
                "torch.empty_like(x[:1]).normal_(",
            ),
            "training-noise-clipped": (
                "model(x + sigma * noise)",
                "model((x + sigma * noise).clamp(0, 1))",
            ),
        },
    )
    + _mutants(
        "rvlib/recipes.py",
        ["test_recipes"],
        {
            "radius-of-the-field-not-of-the-report": ("LINF = Linf(0.03)", "LINF = Linf(8 / 255)"),
        },
    )
)

HOSTILE = _mutants(
    "rvlib/smoothing/votes.py",
    ["test_bad_input"],
    {"a-vote-of-nan-counts": ("    refuse_nan(nan)\n", "")},
) + _mutants(
    "rvlib/types.py",
    ["test_bad_input", "test_types"],
    {
        "pixels-of-nan-let-in": (
            "if not (low >= -ROUNDING and high <= 1 + ROUNDING):",
            "if low < -ROUNDING or high > 1 + ROUNDING:",
        ),
    },
)

REPORT = (
    _mutants(
        "rvlib/report/belonging.py",
        ["report/test_belonging"],
        {
            "rows-of-other-attacks-in-the-tables": ("**identity(run.profile, measured),", ""),
            "tf32-beside-float32": ("_compare(path, function, computed)", "pass"),
            "votes-not-counted": ("_check_votes(path, rows)\n", "pass\n"),
            "labels-not-compared": (
                "_check_labels(path, rows, labels.setdefault(split, []))",
                "pass",
            ),
            "rows-of-replaced-weights-in-the-tables": (
                'return str(record["sha256"])',
                "return None",
            ),
            "rows-that-leave-open-whose-they-are": (
                "if value is not None and said != value:",
                "if value is not None and said is not None and said != value:",
            ),
        },
    )
    + _mutants(
        "rvlib/report/digests.py",
        ["report/test_publish", "report/test_belonging"],
        {
            "digests-of-rows-not-compared": (
                "if written.get(name) != found.get(name):",
                "if (name in written) != (name in found):",
            ),
        },
    )
    + _mutants(
        "rvlib/report/runner.py",
        ["report/test_runner"],
        {
            "notebook-kept-when-its-rows-changed": (
                "and all(now.get(name) == digest for name, digest in rows.items())",
                "and rows.keys() <= now.keys()",
            ),
        },
    )
    + _mutants(
        "rvlib/stages/measurements.py",
        ["stages/test_estimate"],
        {
            "half-a-row-counted": (
                'path.read_bytes().count(b"\\n") if path.exists() else 0',
                "len(path.read_bytes().splitlines()) if path.exists() else 0",
            ),
        },
    )
)

MUTANTS = [*ATTACKS, *BALLS, *VOTES, *NUMBERS, *STATE, *TRAINING, *HOSTILE, *REPORT]


# --- running them --------------------------------------------------------------------------------


def copy_of(root: Path, to: Path) -> Path:
    """Copy what the tests need, as it is now."""
    for name in COPIED:
        source = root / name
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / name)
    return to


def run_tests(copy: Path, tests: Sequence[str], timeout: float = TIMEOUT) -> tuple[int | None, str]:
    """Run test files in a copy: pytest's status (None if they hung) and what it wrote."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
    settings = {
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # none is needed, and loading them takes seconds
    }
    with subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            output, _ = child.communicate(timeout=timeout)
            return child.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # what the tests started, too
            return None, ""


def examine(mutant: Mutant, whole: Path) -> Verdict:
    """Plant one mutant in a copy of its own and see who notices."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rvlib-mutant-") as folder:
        copy = copy_of(whole, Path(folder))
        file = copy / mutant.file
        file.write_text(mutant.change(file.read_text()))
        status, output = run_tests(copy, mutant.tests)
    killed_by, problem = judge(status, output)
    seconds = round(time.monotonic() - started, 1)
    return Verdict(mutant.name, mutant.file, killed_by, problem, seconds)


def judge(status: int | None, output: str) -> tuple[str | None, str]:
    """Say which test killed a mutant, or what is wrong.

    Only a test that fails counts: a file that cannot be imported says nothing about the fault.
    """
    if status is None:
        return f"no end after {TIMEOUT} s", ""
    if status == 0:
        return None, "SURVIVED"
    failed = [
        line[7:].split(" - ")[0] for line in output.splitlines() if line.startswith("FAILED ")
    ]
    if status == 1 and failed:
        return failed[0], ""
    last = output.strip().splitlines()[-1:] or ["nothing"]
    return None, f"pytest ended with status {status}: {last[0]}"


def unmutated(whole: Path, mutants: Sequence[Mutant]) -> list[str]:
    """Run the tests without a fault; say what does not pass."""
    files = sorted({test for mutant in mutants for test in mutant.tests})
    shares = [files[k::AT_ONCE] for k in range(min(AT_ONCE, len(files)))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda share: run_tests(whole, share, TIMEOUT * len(share)), shares)
        failing = [judge(*result) for result in found if result[0] != 0]
    return [test or problem for test, problem in failing]


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Find mutants by name; all if none is named."""
    unknown = sorted({*names} - {mutant.name for mutant in MUTANTS})
    if unknown:
        raise ValueError(f"no such mutants: {', '.join(unknown)}")
    return [mutant for mutant in MUTANTS if not names or mutant.name in names]


def line(verdict: Verdict) -> str:
    """Print one verdict."""
    found = f"killed by {verdict.killed_by}" if verdict.killed_by else verdict.problem
    return f"{verdict.name:42} {verdict.seconds:5.1f} s  {found}"


def record(verdicts: Sequence[Verdict]) -> str:
    """Write down a whole run."""
    lines = [
        {"name": v.name, "file": v.file, "killed_by": v.killed_by, "seconds": v.seconds}
        for v in verdicts
    ]
    content = {"provenance": provenance(torch.device("cpu")), "mutants": lines}
    return json.dumps(content, indent=2) + "\n"


def main(names: Sequence[str]) -> int:
    """Run the mutants; 0 if a test killed every one of them."""
    mutants = chosen(names)
    for mutant in mutants:
        mutant.change((ROOT / mutant.file).read_text())
    with tempfile.TemporaryDirectory(prefix="rvlib-whole-") as folder:
        whole = copy_of(ROOT, Path(folder))
        failing = unmutated(whole, mutants)
        if failing:
            raise ValueError("without a mutant the tests fail: " + "; ".join(failing))
        verdicts = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for verdict in pool.map(lambda mutant: examine(mutant, whole), mutants):
                print(line(verdict), flush=True)
                verdicts.append(verdict)
    killed = sum(verdict.killed_by is not None for verdict in verdicts)
    print(f"{killed} of {len(verdicts)} mutants killed")
    if not names:
        (ROOT / RECORD).write_text(record(verdicts))
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plant faults; a test must see each.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    try:
        sys.exit(main(parser.parse_args().names))
    except ValueError as error:
        sys.exit(f"error: {error}")
