"""`tensorkeep ops`: the operators of ONNX, and the names that are taken for some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tensorkeep.cli.terminal import JsonOption, bold, clean, say, say_json, several, table
from tensorkeep.errors import MissingError
from tensorkeep.models.ops import Operator, example, find, operator, relatives
from tensorkeep.models.ops.examples import examples


def ops(
    word: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An operator, or a part of its name.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option("--domain", metavar="DOMAIN", help="Only those of a domain.")
    ] = None,
    text: Annotated[
        bool, typer.Option("--example", help="Write the example of an operator and nothing else.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """List operators, or show one that is spelt out.

    ONNX's own have the domain ai.onnx. A part of a name is looked for in the names of Caffe2 and
    NNEF too.

    With --json: {"count", "operators": [{"name", "domain", "kind", "versions", "deprecated",
    "lowest_opset", "caffe2": [], "nnef": []}]}; one operator has beside these {"what", "function",
    "inputs": [{"name", "type", "kind"}], "outputs", "attributes": [{"name", "type", "required",
    "default"}], "types": {}, "caffe2_note", "nnef_note", "relatives": [], "remark", "example"};
    with --example {"name", "example"}.
    """
    found = find(word or "", domain)
    exact = [each for each in found if each.name == word]
    if text or (word and not found):
        exact = [operator(word or "", domain)]
    if text:
        shown = example(exact[0].name)
        say_json({"name": exact[0].name, "example": shown}) if as_json else say(shown)
    elif exact:
        say_json(_describe(exact[0])) if as_json else _show(exact[0])
    elif as_json:
        say_json({"count": len(found), "operators": list(map(_summarize, found))})
    else:
        _list(found)
    return 0


def _list(found: Iterable[Operator]) -> None:
    rows = [
        (each.name, _domain(each), _versions(each), ", ".join(each.caffe2), ", ".join(each.nnef))
        for each in found
    ]
    if not rows:
        raise MissingError("there are no operators of that domain", cure="Leave --domain out.")
    table(["NAME", "DOMAIN", "VERSIONS", "CAFFE2", "NNEF"], rows)
    say(f"\n{several(len(rows), 'operator')}")


def _domain(of: Operator) -> str:
    return of.domain or "ai.onnx"


def _versions(of: Operator) -> str:
    if not of.standard:
        return of.kind
    first, last = of.versions[0], of.versions[-1]
    text = str(first) if first == last else f"{first}..{last}"
    return f"{text} deprecated" if of.deprecated_at else text


def _show(of: Operator) -> None:
    say(f"{bold(of.name)}: {_domain(of)}, {_state(of)}")
    say(f"\n  {of.signature}")
    for attribute in of.attributes:
        say(f"    {clean(str(attribute))}")
    for label, types in of.types:
        say(f"  {label}: {', '.join(types)}")
    say()
    lines = {
        "Versions": ", ".join(map(str, of.versions)),
        "What it is": of.what,
        "Runs as": _runs_as(of),
        "Caffe2": _elsewhere(of.caffe2, of.caffe2_note),
        "NNEF": _elsewhere(of.nnef, of.nnef_note),
        "Near to it": ", ".join(relatives(of)),
        "Remark": of.remark,
    }
    for title, line in lines.items():
        if line:
            say(f"{bold(title)}: {line}")
    if of.name in examples():
        say(f"\n{bold('Example')}\n\n{example(of.name)}")


def _state(of: Operator) -> str:
    if not of.standard:
        return f"not in ONNX ({of.kind})"
    if of.deprecated_at:
        return f"deprecated at {of.deprecated_at}"
    return f"since {of.versions[0]}" + (", with a function body" if of.has_function else "")


def _runs_as(of: Operator) -> str:
    if of.lowest_opset is None:
        return ""
    return f"a function of standard operators, from opset {of.lowest_opset} on"


def _elsewhere(names: tuple[str, ...], note: str) -> str:
    text = ", ".join(names) or ("no operator" if note else "")
    return f"{text} ({note})" if note else text


def _summarize(of: Operator) -> dict[str, Any]:
    return {
        "name": of.name,
        "domain": _domain(of),
        "kind": of.kind,
        "versions": of.versions,
        "deprecated": of.deprecated,
        "lowest_opset": of.lowest_opset,
        "caffe2": of.caffe2,
        "nnef": of.nnef,
    }


def _describe(of: Operator) -> dict[str, Any]:
    return _summarize(of) | {
        "what": of.what,
        "function": of.has_function,
        "inputs": [_fields(each, "name", "type", "kind") for each in of.inputs],
        "outputs": [_fields(each, "name", "type", "kind") for each in of.outputs],
        "attributes": [
            _fields(each, "name", "type", "required", "default") for each in of.attributes
        ],
        "types": dict(of.types),
        "caffe2_note": of.caffe2_note,
        "nnef_note": of.nnef_note,
        "relatives": relatives(of),
        "remark": of.remark,
        "example": examples().get(of.name),
    }


def _fields(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}
