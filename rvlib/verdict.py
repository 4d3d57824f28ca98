"""What an evaluation found, in words, as text and as a page of HTML."""

import html
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rvlib.sanity_checks import Check
from rvlib.threat_models import ThreatModel

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
        One line per image: its label, and whether the network was right on the clean image and
        still stood after each attack.
    stages : DataFrame
        One line an attack: ``attack``, images ``n`` and ``correct``, ``accuracy`` in percent with
        Wilson's 95 % interval ``ci_low`` and ``ci_high``, passes per image.
    checks : list of Check
        Of ``sanity``.
    notes : list of str
        What was not tried, or could not be.
    doubts : list of str
        What looks wrong with the network or the ball.
    """

    name: str
    threat: ThreatModel
    version: str
    rows: pd.DataFrame
    stages: pd.DataFrame
    checks: list[Check]
    notes: list[str]
    doubts: list[str] = field(default_factory=list)

    @property
    def robust(self) -> float:
        """Accuracy in percent after all attacks: an upper bound on the robust accuracy."""
        return float(self.stages.set_index("attack").loc["worst case", "accuracy"])

    def sentences(self) -> list[str]:
        """Say in words what was found, and what the number is."""
        line = self.stages.set_index("attack")
        clean, worst = line.loc["clean"], line.loc["worst case"]
        said = [
            f"On {clean['n']:.0f} images {self.name} has accuracy {_percent(clean)} without an "
            f"attack and {_percent(worst)} under the attacks of the table together, in the ball "
            f"{self.threat.name} (in brackets: 95 % intervals).",
            "The second number is an upper bound: a stronger attack can lower it, no attack can "
            "raise it.",
        ]
        if "certified" in line.index:
            holds = ": no attack can change them, with an error probability of 0.001 per image"
            share = line.loc["certified"]
            said.append(f"{_percent(share)} are certified{holds if share['correct'] else ''}.")
        failed = [check for check in self.checks if not check.passed]
        if failed:
            names = "; ".join(f"{c.name} ({c.finding}, expected: {c.expectation})" for c in failed)
            checks = "a check" if len(failed) == 1 else f"{len(failed)} checks"
            said.append(f"Do not rely on it: {checks} failed: {names}.")
        elif self.checks:
            said.append(f"All {len(self.checks)} sanity checks pass.")
        said += [f"Do not rely on it: {doubt}." for doubt in self.doubts]
        return [*said, f"Not tried, or not possible: {'; '.join(self.notes)}."]

    def table(self) -> pd.DataFrame:
        """Name the attacks of ``stages`` in words, and round its numbers."""
        return self.stages.assign(attack=self.stages["attack"].replace(TITLES)).round(2)

    def text(self) -> str:
        """Lay the page out as plain text."""
        table = self.table()
        checks = [f"{'pass' if c.passed else 'FAIL'}  {c.name}: {c.finding}" for c in self.checks]
        return "\n".join([*self.sentences(), "", table.to_string(index=False), "", *checks, ""])

    def html(self) -> str:
        """Lay the page out as HTML, self-contained."""
        stages = self.table().assign(accuracy=[_percent(s) for _, s in self.stages.iterrows()])
        words = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        parts = [words, _table("stages", stages, STAGES)]
        if self.checks:
            checks = pd.DataFrame(self.checks, columns=list(Check._fields))
            checks["passed"] = checks["passed"].map({True: "pass", False: "FAIL"})
            parts.append(_table("checks", checks, CHECKS))
        title = f"{html.escape(self.name)}, {html.escape(self.threat.name)}"
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8">{VIEWPORT}'
            f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{''.join(parts)}</html>\n"
        )


STAGES = {
    "attack": "attack",
    "accuracy": "accuracy (95 %)",
    "correct": "right",
    "n": "images",
    "forwards": "forward passes",
    "backwards": "backward passes",
}
CHECKS = {"name": "check", "passed": "", "finding": "found", "expectation": "expected"}
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
STYLE = """:root{color-scheme:light dark;--paper:#fff;--ink:#1b1b1b;--line:#ccc;--mark:#fdeadd}
@media screen and (prefers-color-scheme:dark){
:root{--paper:#15181c;--ink:#ececec;--line:#3b4149;--mark:#4a2a14}}
body{font:1rem/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;
background:var(--paper);color:var(--ink);overflow-wrap:break-word}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:1.5rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left}
.stages :is(td,th)+:is(td,th){text-align:right;white-space:nowrap}
tr:has(.failed){background:var(--mark);font-weight:600}
@media (max-width:40rem){
.checks :is(tr,td){display:block}.checks tr{padding:.4rem 0;border-bottom:1px solid var(--line)}
.checks thead{display:none}.checks td{border:0;padding:.1rem .6rem}
.checks td:last-child::before{content:"expected: "}}"""


def _table(name: str, table: pd.DataFrame, heads: dict[str, str]) -> str:
    """Write the columns of a table under heads in words; what failed is marked."""
    table = table[[head for head in heads if head in table]].rename(columns=heads)
    made = table.to_html(index=False, border=0, na_rep="-", classes=name)
    marked = made.replace("<td>FAIL</td>", '<td class="failed">FAIL</td>')
    return f'<div class="scroll">{marked}</div>'


def _percent(line: Any) -> str:
    return f"{line['accuracy']:.1f} % ({line['ci_low']:.1f} to {line['ci_high']:.1f})"
