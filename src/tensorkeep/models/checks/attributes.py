"""Faults of the attributes of nodes: their names, their values, and the types of these."""

from __future__ import annotations

from tensorkeep.graph.schema import ATTRIBUTE_TYPES
from tensorkeep.message import Message
from tensorkeep.models.checks.findings import Report, quoted, several
from tensorkeep.models.checks.scopes import Scope
from tensorkeep.models.ops.history import Version, versions_of

# The field that holds the value of each type of attribute.
FIELDS = {
    "f": "FLOAT",
    "i": "INT",
    "s": "STRING",
    "t": "TENSOR",
    "g": "GRAPH",
    "sparse_tensor": "SPARSE_TENSOR",
    "tp": "TYPE_PROTO",
    "floats": "FLOATS",
    "ints": "INTS",
    "strings": "STRINGS",
    "tensors": "TENSORS",
    "graphs": "GRAPHS",
    "sparse_tensors": "SPARSE_TENSORS",
    "type_protos": "TYPE_PROTOS",
}
_NUMBERS = ATTRIBUTE_TYPES.numbers
_NAMES = {number: name for name, number in _NUMBERS.items()}


def type_of(attribute: Message) -> str:
    """Give the name of an attribute's type; that of its value, where it says none."""
    if attribute["type"]:
        return _NAMES.get(attribute["type"], str(attribute["type"]))
    filled = fields_set(attribute)
    return FIELDS[filled[0]] if len(filled) == 1 else ""


def fields_set(attribute: Message) -> list[str]:
    """List the fields in which an attribute has a value."""
    return [name for name in FIELDS if name in attribute]


def check_attributes(scope: Scope, index: int, declared: frozenset[str], report: Report) -> None:
    """Look for the faults that attributes have by themselves.

    Args:
        scope: where the node is.
        index: its place there.
        declared: the attributes of the function it is in, which it may refer to.
        report: takes the findings.
    """
    where, seen = "", set()
    for attribute in scope.nodes[index].attribute:
        where = where or scope.label(index)
        name = str(attribute.name)
        if not name:
            problem = "has an attribute without a name"
            report.error("attribute-without-name", where, problem, "Name it, or remove it.")
            continue
        if name in seen:
            problem = f"has the attribute {quoted(name)} twice"
            report.error("repeated-attribute", where, problem, "Keep the right one alone.")
        seen.add(name)
        check_value(attribute, f"{where}.{name[:60]}", report)
        reference = str(attribute.ref_attr_name)
        if reference and not scope.in_function:
            problem = f"{quoted(name)} refers to {quoted(reference)} of a function, outside of any"
            report.error("stray-reference", where, problem, "Give the attribute a value.")
        elif reference and reference not in declared:
            problem = f"{quoted(name)} refers to {quoted(reference)}, which the function lacks"
            cure = "Add it to the attributes of the function."
            report.error("unknown-reference", where, problem, cure)


def check_value(attribute: Message, where: str, report: Report) -> None:
    """Look for a type that is missing, or that is not the type of the value."""
    filled, number = fields_set(attribute), attribute["type"]
    if attribute.ref_attr_name and filled:
        problem = f"has a value ({filled[0]}) and refers to an attribute of a function"
        report.error("value-and-reference", where, problem, "Keep one of both.")
    if len(filled) > 1:
        problem = f"has several values: {', '.join(filled)}"
        report.error("several-values", where, problem, "Keep the right one alone.")
    elif number == 0:
        if filled:
            problem = f"has no type; its value stands in `{filled[0]}`"
            cure = f"Set type: {FIELDS[filled[0]]}."
        else:
            problem, cure = "has neither a type nor a value", "Give it both, or remove it."
        report.error("attribute-without-type", where, problem, cure, fixable=bool(filled))
    elif number not in _NAMES:
        problem = f"has the type {number}; ONNX has 1 to {max(_NAMES)}"
        report.error("attribute-type", where, problem, "Correct it.", fixable=bool(filled))
    elif filled and FIELDS[filled[0]] != _NAMES[number]:
        problem = f"says to be {_NAMES[number]}, but its value stands in `{filled[0]}`"
        cure = f"Set type: {FIELDS[filled[0]]}, or move the value."
        report.error("attribute-type", where, problem, cure)


def mend_type(attribute: Message) -> None:
    """Give an attribute the type of its value, where it has none."""
    filled = fields_set(attribute)
    if attribute["type"] not in set(_NAMES) - {0} and len(filled) == 1:
        attribute["type"] = _NUMBERS[FIELDS[filled[0]]]


def compare_attributes(
    node: Message, where: str, version: Version, domain: str, report: Report
) -> None:
    """Compare the attributes of a node with those that its operator has."""
    op_type = str(node.op_type)
    given = {str(attribute.name): attribute for attribute in node.attribute}
    for name in version.required:
        if name not in given:
            problem = f"lacks the attribute {quoted(name)}, which {op_type} has to have"
            kind = version.attributes[name].type.upper()
            report.error("missing-attribute", where, problem, f"Add it; it is {kind}.")
    for name, attribute in given.items():
        known = version.attributes.get(name)
        if known is None:
            if name:
                _unknown(name, op_type, version, domain, where, report)
        elif (found := type_of(attribute)) and found != (wanted := known.type.upper()):
            problem = f"the attribute {quoted(name)} is {found}, where {op_type} takes {wanted}"
            report.error("attribute-kind", where, problem, f"Give it as {wanted}.")


def _unknown(
    name: str, op_type: str, version: Version, domain: str, where: str, report: Report
) -> None:
    known = version.attributes
    problem = f"has the attribute {quoted(name)}, which {op_type}-{version.since} has not"
    if name in {each.name for each in version.inputs}:
        cure = f"It is an input since opset {_first_as_input(domain, op_type, name)}."
    elif others := [each.since for each in versions_of(domain, op_type) if name in each.attributes]:
        words = "after" if others[0] > version.since else "before"
        cure = f"It exists {words} that: in version {others[0]}. Import such an opset."
    elif guess := report.guess(name, known):
        cure = guess
    else:
        cure = f"It has {several(sorted(known), 9)}." if known else "It takes none. Remove it."
    report.error("unknown-attribute", where, problem, cure)


def _first_as_input(domain: str, op_type: str, name: str) -> int:
    return next(
        each.since
        for each in versions_of(domain, op_type)
        if name in {given.name for given in each.inputs}
    )
