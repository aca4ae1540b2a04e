"""Faults of nodes: operators that are unknown, newer than the opset or not to be used any more."""

from __future__ import annotations

from tensorkeep.message import Message
from tensorkeep.models.checks.attributes import check_attributes, compare_attributes
from tensorkeep.models.checks.findings import Report, quoted
from tensorkeep.models.checks.scopes import FunctionKey, Scope, function_key, plain
from tensorkeep.models.ops import OURS, catalogue
from tensorkeep.models.ops.history import (
    Version,
    newest_opset,
    operators_of,
    version_at,
    versions_of,
)


class Operators:
    """What the nodes of a model may be: functions of its own, and operators of its opsets.

    Args:
        model: the model.
        assumed: the opset to judge by, of the domains that a scope uses without importing them.
        report: takes the findings.
    """

    def __init__(self, model: Message, assumed: dict[str, int], report: Report) -> None:
        self.functions: dict[FunctionKey, Message] = {
            function_key(function): function for function in model.functions
        }
        self._named = {key[:2] for key in self.functions}
        self._assumed = assumed
        self._spelled_long = any(row.domain == "ai.onnx" for row in model.opset_import)
        self._report = report
        self._hints: dict[tuple[str, str], str] = {}

    def check(self, root: Scope) -> None:
        """Look at all nodes of a graph or function, and of its subgraphs."""
        declared: frozenset[str] = frozenset()
        if root.is_function:
            message = root.message
            defaults = (str(attribute.name) for attribute in message.attribute_proto)
            declared = frozenset((*message.attribute, *defaults))
        for scope in root.within():
            for index in range(len(scope.nodes)):
                self._check_node(scope, index, declared)

    def _check_node(self, scope: Scope, index: int, declared: frozenset[str]) -> None:
        node, report = scope.nodes[index], self._report
        check_attributes(scope, index, declared, report)
        op_type, domain = str(node.op_type), plain(node.domain)
        if node.domain == "ai.onnx" and not self._spelled_long:
            problem = "spells the domain ai.onnx, and what is imported spells it as nothing"
            cure = 'Set its domain to "", which means the same to all readers.'
            report.error("domain-spelling", scope.label(index), problem, cure, fixable=True)
        if not op_type:
            cure = "Set op_type, or remove the node."
            report.error("no-op-type", scope.label(index), "does not say what it does", cure)
            return
        function = self.functions.get((domain, op_type, str(node.overload)))
        if function is not None:
            self._compare_with_function(node, scope.label(index), function)
            return
        if (domain, op_type) in self._named and newest_opset(domain) is None:
            problem = f"calls the overload {quoted(node.overload)} of {op_type}, which is not there"
            cure = "Correct overload, or add the function."
            report.error("unknown-overload", scope.label(index), problem, cure)
            return
        if newest_opset(domain) is None:
            if domain not in KNOWN_DOMAINS:
                problem = f"{op_type} is of the domain {quoted(domain)}, and no function defines it"
                cure = "Only a runtime that has it runs the model; or add a function for it."
                report.warning("unknown-domain", scope.label(index), problem, cure)
            return
        opset = scope.opsets.get(domain) or self._assumed.get(domain) or 1
        version = version_at(domain, op_type, opset)
        if version is None:
            self._unknown(domain, op_type, opset, scope.label(index))
            return
        if version.deprecated:
            cure = self._hint(domain, op_type) or "Replace it, or import an older opset."
            problem = f"{op_type} is not to be used from opset {version.since} on; "
            problem += f"the model imports {opset}"
            report.error("deprecated-operator", scope.label(index), problem, cure)
            return
        self._compare(node, scope, index, version, domain)

    def _unknown(self, domain: str, op_type: str, opset: int, where: str) -> None:
        versions = versions_of(domain, op_type)
        shown = domain or "ai.onnx"
        if versions:
            since = versions[0].since
            problem = f"{op_type} came with opset {since} of {shown}, and the model imports {opset}"
            cure = f"Import opset {since} or newer."
            self._report.error("operator-newer-than-opset", where, problem, cure)
            return
        problem = f"{shown} has no operator {quoted(op_type)}"
        self._report.error("unknown-operator", where, problem, self._hint(domain, op_type))

    def _hint(self, domain: str, op_type: str) -> str:
        """Say what to use instead of an operator that is none."""
        key = domain, op_type
        if key not in self._hints:
            self._hints[key] = _hint(domain, op_type, self._report)
        return self._hints[key]

    def _compare(
        self, node: Message, scope: Scope, index: int, version: Version, domain: str
    ) -> None:
        given, named = len(node.input), f"{node.op_type}-{version.since}"
        least, most = version.least_inputs, version.most_inputs
        if given < least or (most is not None and given > most):
            names = ", ".join(map(str, version.inputs))
            lacking = ", ".join(map(str, version.inputs[given:least]))
            lacking = f"; it lacks {lacking}" * (given < least)
            problem = f"has {_count(given, 'input')}, where {named} takes {_range(least, most)}"
            cure = f"Give it its inputs: {names}." if given < least else f"It takes {names}."
            if not names:
                cure = "Remove them."
            self._report.error("input-count", scope.label(index), problem + lacking, cure)
        else:
            for parameter, value in zip(version.inputs, node.input, strict=False):
                if not value and parameter.kind == "single":
                    problem = f"leaves out the input {parameter.name}, which {named} has to have"
                    cure = "Name the value that it takes."
                    self._report.error("missing-input", scope.label(index), problem, cure)
        given, least, most = len(node.output), version.least_outputs, version.most_outputs
        if given < least or (most is not None and given > most):
            problem = f"has {_count(given, 'output')}, where {named} gives {_range(least, most)}"
            cure = "Name as many outputs as it has."
            self._report.error("output-count", scope.label(index), problem, cure)
        if node.attribute or version.required:
            compare_attributes(node, scope.label(index), version, domain, self._report)

    def _compare_with_function(self, node: Message, where: str, function: Message) -> None:
        for what, code in (("input", "input-count"), ("output", "output-count")):
            given, most = len(node[what]), len(function[what])
            if given > most:
                problem = f"has {_count(given, what)}, where the function has {most}"
                self._report.error(code, where, problem, "Remove what is too much.")
        given_names = {str(attribute.name) for attribute in node.attribute}
        required = set(function.attribute)
        known = required | {str(attribute.name) for attribute in function.attribute_proto}
        for name in sorted(required - given_names):
            problem = f"lacks the attribute {quoted(name)}, for which the function has no default"
            self._report.error("missing-attribute", where, problem, "Add it.")
        for name in sorted(given_names - known):
            problem = f"has the attribute {quoted(name)}, which the function has not"
            cure = self._report.guess(name, known) or "Remove it."
            self._report.error("unknown-attribute", where, problem, cure)


# Of runtimes that many models are made for.
KNOWN_DOMAINS = frozenset(
    (
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.microsoft.nhwc",
        "com.ms.internal.nhwc",
        "ai.onnx.contrib",
        "ai.graphcore",
    )
)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _range(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _hint(domain: str, op_type: str, report: Report) -> str:
    known = catalogue()
    found = known.get((domain, op_type)) or known.get((OURS, op_type))
    if found is not None and not found.standard:
        return (
            f"ONNX lacks it; `tensorkeep ops {op_type}` says what it is, and "
            "tensorkeep.models.expand adds a function for it."
        )
    if found is not None and found.nearest:
        return f"Use {' or '.join(found.nearest)} instead; see `tensorkeep ops {op_type}`."
    elsewhere = sorted({place for place, name in known if name == op_type and place != OURS})
    if elsewhere:
        return f"There is one in the domain {quoted(elsewhere[0] or 'ai.onnx')}; set domain to it."
    if guess := report.guess(op_type, operators_of(domain)):
        return guess
    return "Give the domain that has it, or add a function for it; `tensorkeep ops` lists all."
