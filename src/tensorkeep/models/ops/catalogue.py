"""Every operator of ONNX with its versions and signature, and the names that others have for it.

What ONNX publishes is in the history; what it does not (names elsewhere, remarks, and what names
that it lacks really are) is in names.json, which is kept by hand. Neither needs the onnx package.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from tensorkeep.errors import MissingError
from tensorkeep.models.ops import history
from tensorkeep.models.ops.functions import functions
from tensorkeep.models.ops.operators import ONNX, OURS, Operator
from tensorkeep.similar import did_you_mean

Key = tuple[str, str]


@cache
def catalogue() -> dict[Key, Operator]:
    """Give every operator by domain and name; those that ONNX lacks come last.

    >>> len([each for each in catalogue().values() if not each.standard])
    42
    """
    said = names()
    found: dict[Key, Operator] = {}
    for domain in history.domains():
        for name in history.operators_of(domain):
            notes = said.get(name, {}) if domain == ONNX else {}
            found[domain, name] = _published(domain, name, notes)
    for name, notes in said.items():
        if "kind" in notes:
            found[OURS, name] = _lacking(name, notes)
    return found


@cache
def names() -> dict[str, Any]:
    """Give what is kept by hand, by the name of the operator."""
    text = (files("tensorkeep.models.ops") / "names.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def newest_opset() -> int:
    """Give the newest opset that the catalogue knows.

    >>> newest_opset()
    28
    """
    return history.newest_opset(ONNX) or 0


def operator(name: str, domain: str | None = None) -> Operator:
    """Give one operator.

    Args:
        name: its op_type, in any case.
        domain: where several have one of that name; ONNX's own comes first otherwise.

    Raises:
        MissingError: there is none of that name.

    >>> operator("Conv").versions, operator("Erfc").kind
    ((1, 11, 22), 'fictional')
    """
    every = list(dict.fromkeys(place for place, _ in catalogue()))
    for place in every if domain is None else [_plain(domain)]:
        found = _folded().get((place, name.casefold()))
        if found is not None:
            return found
    listed = [key[1] for key in catalogue() if domain is None or key[0] == _plain(domain)]
    where = f" in the domain {domain}" if domain else ""
    cure = did_you_mean(name, listed) or "tensorkeep ops lists all."
    raise MissingError(f"there is no operator called {name!r}{where}", cure=cure)


def find(word: str = "", domain: str | None = None) -> list[Operator]:
    """List the operators whose name holds a word, here or in Caffe2 or NNEF; in any case.

    >>> [each.name for each in find("transposew")]
    ['ConvTransposeWithDynamicPadding']
    """
    folded = word.casefold()
    return [
        each
        for each in catalogue().values()
        if (domain is None or each.domain == _plain(domain))
        and any(folded in name.casefold() for name in (each.name, *each.caffe2, *each.nnef))
    ]


def since(domain: str, op_type: str, opset: int) -> int | None:
    """Give the version of an operator that an opset of its domain has.

    None where there is no such operator, or it is newer. A version may be one that deprecates it:
    see Operator.deprecated.

    >>> since("", "Softmax", 12), since("", "Gelu", 17), since("com.microsoft", "Gelu", 1)
    (11, None, None)
    """
    found = history.version_at(_plain(domain), op_type, opset)
    return found.since if found else None


def relatives(of: Operator) -> list[str]:
    """Name what is near to an operator: what it says itself, and what says so of it.

    >>> relatives(operator("Upsample"))
    ['Resize']
    """
    found = list(of.nearest)
    for each in catalogue().values():
        same = of.name in each.nearest
        longer = len(of.name) > _SHORT and of.name in each.name
        shorter = len(each.name) > _SHORT and each.name in of.name
        if each.name != of.name and (same or longer or shorter) and each.name not in found:
            found.append(each.name)
    return found


_SHORT = 3  # letters of a name that other names hold by chance


@cache
def _folded() -> dict[Key, Operator]:
    return {(domain, name.casefold()): each for (domain, name), each in catalogue().items()}


def _plain(domain: str) -> str:
    return ONNX if domain == "ai.onnx" else domain


def _published(domain: str, name: str, notes: dict[str, Any]) -> Operator:
    versions = history.versions_of(domain, name)
    newest = next(each for each in reversed(versions) if not each.deprecated)
    return Operator(
        name=name,
        domain=domain,
        versions=tuple(each.since for each in versions),
        deprecated=tuple(each.since for each in versions if each.deprecated),
        has_function=newest.has_function,
        inputs=newest.inputs,
        outputs=newest.outputs,
        attributes=tuple(newest.attributes.values()),
        types=tuple(newest.types.items()),
        **_notes(notes),
    )


def _lacking(name: str, notes: dict[str, Any]) -> Operator:
    function = functions()[OURS, name, ""]
    return Operator(
        name=name,
        domain=OURS,
        versions=(),
        deprecated=(),
        has_function=True,
        inputs=function.inputs,
        outputs=function.outputs,
        attributes=function.attributes,
        kind=notes["kind"],
        what=notes["what"],
        lowest_opset=function.lowest_opset,
        **_notes(notes),
    )


def _notes(notes: dict[str, Any]) -> dict[str, Any]:
    lists = {key: tuple(notes.get(key, ())) for key in ("caffe2", "nnef", "nearest")}
    return lists | {key: notes.get(key, "") for key in ("caffe2_note", "nnef_note", "remark")}
