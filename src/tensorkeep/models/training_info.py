"""What the graphs for training in a model are, in short.

From ONNX's TrainingInfoProto: `initialization` gives tensors their first values, `algorithm` is one
step of the training; the bindings say which output becomes which initializer.
"""

from __future__ import annotations

from typing import Any

from tensorkeep.errors import TensorKeepError
from tensorkeep.graph.codec import read_tensor
from tensorkeep.graph.walking import graphs_within
from tensorkeep.message import Message
from tensorkeep.state import Json

_OPTIMIZERS = frozenset(("Adagrad", "Adam", "Momentum"))
_DOMAINS = frozenset(("ai.onnx.preview.training", "ai.onnx.training"))
_NUMBERS = {"rate": 0, "step": 1}  # the inputs of every optimizer: learning rate and step count
_SHOWN = 100  # bindings and optimizers of a kind that are told


def describe_training(model: Message) -> list[Json]:
    """Describe each TrainingInfoProto of a model.

    Gives {"initialization": {"nodes", "bindings"}, "algorithm": {"nodes", "inputs", "outputs",
    "bindings"}, "optimizers": [{"op", "attributes", "rate", "step"}]} for each; rate and step where
    they are numbers in the model. Bindings go from what is set to where its value comes from.
    """
    return [_describe(model, training) for training in model.training_info]


def _describe(model: Message, training: Message) -> Json:
    first, step = training.initialization, training.algorithm
    return {
        "initialization": {
            "nodes": len(first.node),
            "bindings": _bindings(training.initialization_binding),
        },
        "algorithm": {
            "nodes": len(step.node),
            "inputs": [str(value.name) for value in step.input[:_SHOWN]],
            "outputs": [str(value.name) for value in step.output[:_SHOWN]],
            "bindings": _bindings(training.update_binding),
        },
        "optimizers": [
            _optimizer(node, (step, model.graph))
            for graph in graphs_within(step)
            for node in graph.node
            if node.op_type in _OPTIMIZERS and node.domain in _DOMAINS
        ][:_SHOWN],
    }


def _bindings(entries: list[Message]) -> Json:
    return {str(entry.key): str(entry.value) for entry in entries[:_SHOWN]}


def _optimizer(node: Message, graphs: tuple[Message, ...]) -> Json:
    described: dict[str, Json] = {
        "op": f"{node.domain}.{node.op_type}",
        "attributes": {str(each.name): _value(each) for each in node.attribute},
    }
    for what, place in _NUMBERS.items():
        if place < len(node.input):
            value = _initial(node.input[place], graphs)
            if value is not None:
                described[what] = value
    return described


def _value(attribute: Message) -> Json:
    for field in ("f", "i"):
        if field in attribute:
            number: Any = attribute[field]
            return float(f"{number:.9g}") if field == "f" else int(number)
    if "s" in attribute:
        return str(attribute.s, "utf-8", "replace")
    kind = attribute.type  # a field that is zero may be left out
    return {1: 0.0, 2: 0}.get(kind)


def _initial(name: str, graphs: tuple[Message, ...]) -> Json:
    """Give the number that an initializer holds; None where there is none of that name."""
    for graph in graphs:
        for tensor in graph.initializer:
            if tensor.name == name:
                try:
                    array = read_tensor(tensor, name).numpy()
                except TensorKeepError:
                    return None
                if array.size != 1 or array.dtype.kind not in "iuf":
                    return None
                number = array.reshape(-1)[0]
                return int(number) if array.dtype.kind != "f" else float(f"{number:.9g}")
    return None
