"""ONNX's models as JSON and text, against what the `onnx` library writes and reads."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.text_format import ParseError
from onnx.backend.test.loader import load_model_tests
from onnx.helper import make_attribute, make_graph, make_model, make_node
from onnx.serialization import registry
from tests.onnx_cases import node_cases

from tensorkeep.errors import ArgumentError
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.message.json import find_unknown, json_chunks
from tensorkeep.message.text import text_chunks


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """Give one in twenty of the models that ONNX tests its operators with, and those of the nets.

    Those with subgraphs, sequences and expanded functions are all among them.
    """
    cases = node_cases()
    nested = ("test_if", "test_loop", "test_scan", "test_sequence_map", "test_optional")
    picked = [case.model for case in cases[::20]]
    picked += [case.model for case in cases if case.name.startswith(nested)]
    for kind in ("simple", "pytorch-operator"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = load_model_tests(kind=kind)
        picked += [onnx.load(f"{case.model_dir}/model.onnx") for case in cases[::3]]
    assert len(picked) > 120
    return picked


def encode(model: Any) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


@pytest.mark.parametrize(("format", "write"), [("json", json_chunks), ("textproto", text_chunks)])
def test_both_directions(models: list[Any], format: str, write: Any) -> None:
    for model in models:
        ours = Message.parse(MODEL, encode(model))
        assert not list(find_unknown(ours))
        text = b"".join(write(ours))
        assert text.decode() == (ours.to_json() if format == "json" else ours.to_text())
        assert onnx.load_model_from_string(text, format=format) == model
        read = Message.from_json if format == "json" else Message.from_text
        theirs = registry.get(format).serialize_proto(model)
        for source in (text, theirs):
            again = read(MODEL, source)
            assert again == ours
            assert again.encode() == encode(model)


def odd_model() -> Any:
    node = make_node("Odd", ["x"], ["y"], name='é"\n\\')
    node.attribute.append(make_attribute("raw", bytes(range(256)) * 2))
    node.attribute.append(make_attribute("many", [b"\xff\xfe", b"", b"\\1\\n'\"?"]))
    node.attribute.append(make_attribute("numbers", [float(np.finfo(np.float32).max), 1e-45]))
    node.attribute.append(make_attribute("largest", -float(np.finfo(np.float32).max)))
    return make_model(make_graph([node], "odd", [], []))


@pytest.mark.parametrize("format", ["json", "textproto"])
def test_odd_bytes_and_numbers(format: str) -> None:
    model = odd_model()
    ours = Message.parse(MODEL, encode(model))
    text = ours.to_json() if format == "json" else ours.to_text()
    assert onnx.load_model_from_string(text, format=format) == model
    read = Message.from_json if format == "json" else Message.from_text
    assert read(MODEL, text) == ours
    assert read(MODEL, registry.get(format).serialize_proto(model)) == ours


def test_every_byte_as_text_reads_it() -> None:
    """Long bytes are escaped by another way than short ones, and read back by another way."""
    for size in (1, 63, 64, 65, 5000):
        data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
        model = make_model(make_graph([], "g", [], [], doc_string="x"))
        model.graph.initializer.add(name="w", raw_data=data)
        ours = Message.parse(MODEL, encode(model))
        assert onnx.load_model_from_string(ours.to_text(), format="textproto") == model
        assert ours.to_text().encode() == registry.get("textproto").serialize_proto(model)
        assert Message.from_text(MODEL, ours.to_text()) == ours


def test_names_that_are_not_utf_8() -> None:
    """Protobuf reads and writes them as binary, but its Python library reads no such text."""
    ours = Message(MODEL, producer_name="a\udcff\udc80é")
    assert onnx.ModelProto.FromString(ours.encode()).SerializeToString() == ours.encode()
    assert ours.to_text() == 'producer_name: "a\\377\\200é"\n'
    assert Message.from_text(MODEL, ours.to_text()) == ours
    with pytest.raises(ParseError, match="can't decode byte 0xff"):
        onnx.load_model_from_string(ours.to_text(), format="textproto")
    with pytest.raises(ArgumentError, match="producer_name holds bytes that are not UTF-8"):
        ours.to_json()
