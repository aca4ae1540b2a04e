"""Finding: one thing that is wrong with a model; and the report that checks write into."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

Severity = Literal["error", "warning"]

_GUESSES, _COMPARED = 50, 2000  # since each takes milliseconds
MOST = 2000  # findings that are kept; who has more will not read them one by one


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, where, and how to mend it.

    Attributes:
        severity: "error" for what ONNX forbids or what cannot be read, "warning" for the rest.
        code: a short name of this kind of finding, which stays the same.
        where: the place in the model, such as `graph.node[3] Conv 'conv1'`.
        problem: what was found, and what belongs there.
        cure: how to mend it.
        fixable: whether `tensorkeep.models.fix` mends it.
    """

    severity: Severity
    code: str
    where: str
    problem: str
    cure: str
    fixable: bool = False

    def __str__(self) -> str:
        return f"{self.severity} {self.code} at {self.where}: {self.problem}. {self.cure}"


class Report:
    """Findings as they are made; the same one is kept once, and no more than MOST."""

    def __init__(self) -> None:
        self._findings: dict[Finding, None] = {}
        self.left_out = 0
        self._guesses = _GUESSES

    def error(
        self, code: str, where: str, problem: str, cure: str, *, fixable: bool = False
    ) -> None:
        """Tell of what ONNX forbids, or what cannot be read."""
        self.add(Finding("error", code, where, problem, cure, fixable))

    def warning(
        self, code: str, where: str, problem: str, cure: str, *, fixable: bool = False
    ) -> None:
        """Tell of what is likely not meant."""
        self.add(Finding("warning", code, where, problem, cure, fixable))

    def add(self, finding: Finding) -> None:
        """Keep a finding."""
        if finding in self._findings:
            return
        if len(self._findings) < MOST:
            self._findings[finding] = None
        else:
            self.left_out += 1

    def guess(self, name: str, known: Iterable[str]) -> str:
        """Ask whether a known name near to one was meant; empty where none is, or after many."""
        self._guesses -= 1
        if self._guesses < 0:
            return ""
        folded = {each.casefold(): each for each in islice(known, _COMPARED) if each}
        near = difflib.get_close_matches(name[:80].casefold(), folded, n=2, cutoff=0.7)
        return f"Did you mean {' or '.join(folded[each] for each in near)}?" if near else ""

    def mark_fixable(self, codes: frozenset[str], where: str) -> None:
        """Say of the findings of some kinds at a place that they can be mended."""
        self._findings = {
            replace(each, fixable=True)
            if each.code in codes and each.where == where
            else each: None
            for each in self._findings
        }

    @property
    def codes(self) -> set[str]:
        """The kinds of findings so far."""
        return {finding.code for finding in self._findings}

    def has(self, code: str, where: str = "") -> bool:
        """Whether there is a finding of a kind, at a place that starts so."""
        return any(
            finding.code == code and finding.where.startswith(where) for finding in self._findings
        )

    def errors_at(self, where: str) -> list[Finding]:
        """Give the errors at a place, or at a part of it."""
        return [
            finding
            for finding in self._findings
            if finding.severity == "error" and finding.where.startswith(where)
        ]

    def listed(self) -> list[Finding]:
        """Give the findings, errors first, else in the order in which they were made."""
        found = sorted(self._findings, key=lambda finding: finding.severity != "error")
        if self.left_out:
            problem = f"{self.left_out:,} more findings are not listed"
            found.append(Finding("warning", "more-findings", "model", problem, "Mend those first."))
        return found


def quoted(name: str, most: int = 60) -> str:
    """Quote a name of a model, cut where it is long.

    >>> quoted("conv1"), quoted("x" * 9, 5)
    ("'conv1'", "'xxxxx...'")
    """
    return repr(name if len(name) <= most else f"{name[:most]}...")


def several(names: list[str], most: int = 5) -> str:
    """List names in a sentence.

    >>> several(["a", "b"]), several(list("abcdef"), 2)
    ("'a' and 'b'", "'a', 'b' and 4 more")
    """
    shown = [quoted(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
