"""What a translation did beside the plain replacing of operators, and what it could not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tensorkeep.errors import TranslationError

# What was done, in the order in which it is told.
KINDS = ("fixed", "folded", "expanded", "renamed", "dropped", "changed")
Kind = Literal["fixed", "folded", "expanded", "renamed", "dropped", "changed"]

_LISTED = 40


class Remark(NamedTuple):
    """One thing that a translation did: its kind, the value or node, and a sentence."""

    kind: Kind
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.text}"


class Refusal(NamedTuple):
    """A node that cannot be translated: its operator, its name, why, and what would help."""

    operator: str
    node: str
    reason: str
    cure: str = ""


class Refused(Exception):  # noqa: N818 - it says that a node was refused
    """Raised by the translation of a node where the other side cannot say it."""

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.cure = cure


@dataclass(slots=True)
class Report:
    """What a translation from one dialect to another did.

    >>> report = Report("nnef", "onnx")
    >>> report.add("fixed", "x", "its batch is 1")
    >>> [str(remark) for remark in report.remarks]
    ['fixed x: its batch is 1']
    """

    source: str
    target: str
    remarks: list[Remark] = field(default_factory=list)
    _noted: set[Remark] = field(default_factory=set, init=False, repr=False, compare=False)

    def add(self, kind: Kind, name: str, text: str) -> None:
        """Note what was done; the same is noted once."""
        remark = Remark(kind, name, text)
        if remark not in self._noted:
            self._noted.add(remark)
            self.remarks.append(remark)

    def ordered(self) -> list[Remark]:
        """Give the remarks by their kinds."""
        return sorted(self.remarks, key=lambda remark: KINDS.index(remark.kind))


def refuse(refusals: Sequence[Refusal], target: str, where: str) -> TranslationError:
    """Give the error that lists all that cannot be translated, the like of it once."""
    counted = Counter((each.operator, each.reason) for each in refusals)
    cures: dict[tuple[str, str], str] = {}
    nodes: dict[tuple[str, str], list[str]] = {}
    for each in refusals:
        cures.setdefault((each.operator, each.reason), each.cure)
        nodes.setdefault((each.operator, each.reason), []).append(each.node)
    rows = [_row(key, count, nodes[key], cures[key]) for key, count in counted.most_common()]
    shown = "".join(f"\n  {row}" for row in rows[:_LISTED])
    more = f"\n  and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
    several = "1 node" if len(refusals) == 1 else f"{len(refusals):,} nodes"
    problem = f"{several} cannot be said in {target}:{shown}{more}"
    return TranslationError(problem, where=where, refusals=tuple(refusals))


def _row(key: tuple[str, str], count: int, nodes: Sequence[str], cure: str) -> str:
    operator, reason = key
    often = f"{operator} ({count} times, at {_some(nodes)})" if count > 1 else f"{operator}"
    at = f" at {nodes[0]}" if count == 1 and nodes[0] else ""
    return f"{often}{at}: {reason}" + (f". {cure}" if cure else "")


def _some(nodes: Iterable[str]) -> str:
    listed = [node for node in nodes if node]
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
