"""The field tables against files that Caffe2 wrote, and against Google's protobuf library."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.message.reference import build_ours, build_theirs, message_classes, plans

from tensorkeep.errors import TensorKeepError
from tensorkeep.message import Message, Schema
from tensorkeep.wire.caffe2.schema import (
    ARGUMENT,
    BLOB,
    DATA_TYPE,
    DEVICE,
    DEVICE_TYPE,
    META_NET,
    NET,
    PLAN,
    PREDICTOR_CONSTS,
    QTENSOR,
    SCHEMAS,
    TENSOR,
    TENSORS,
)

DATA = Path(__file__).parents[2] / "data" / "caffe2"
NETS = [*sorted(DATA.glob("net_*/*.pb")), DATA / "metanet.pb", DATA / "plan.pb"]
TEXTS = [*sorted(DATA.glob("net_*/*.pbtxt")), DATA / "metanet.pbtxt"]
THEIRS = message_classes(SCHEMAS)


def schema_of(path: Path) -> Schema:
    return {"metanet": META_NET, "plan": PLAN}.get(path.stem, NET)


def unknown_in(message: Message) -> list[bytes]:
    found = message.unknown()
    for name in message:
        if message.schema[name].message is not None:
            value = message[name]
            for inner in value if message.schema[name].repeated else (value,):
                found += unknown_in(inner)
    return found


def test_there_are_files() -> None:
    assert len(NETS) > 10
    assert len(TEXTS) > 8


@pytest.mark.parametrize("path", NETS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_caffe2_wrote(path: Path) -> None:
    data = path.read_bytes()
    message = Message.parse(schema_of(path), data, where=path.name)
    message.check_required()
    assert unknown_in(message) == []
    assert message.encode() == data
    anew = build_anew(message)
    assert anew.encode() == data
    theirs = THEIRS[message.schema.name]()
    theirs.ParseFromString(data)
    text = text_format.MessageToString(theirs, as_utf8=True)
    assert message.to_text() == text
    assert Message.from_text(message.schema, text).encode() == data


def build_anew(message: Message) -> Message:
    """Build the same message from its values alone."""
    fresh = Message(message.schema)
    for name in message:
        value = message[name]
        if message.schema[name].message is None:
            fresh[name] = value
        elif message.schema[name].repeated:
            fresh[name] = [build_anew(inner) for inner in value]
        else:
            fresh[name] = build_anew(value)
    return fresh


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_texts_that_caffe2_wrote(path: Path) -> None:
    """Written with a protobuf library that gave floats more digits than they need."""
    message = Message.from_text(schema_of(path), path.read_bytes(), where=path.name)
    assert message.encode() == path.with_suffix(".pb").read_bytes()
    assert Message.from_text(message.schema, message.to_text()) == message


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_every_message_is_written_as_protobuf_does(schema: Schema) -> None:
    @settings(max_examples=15)
    @given(plans(schema, 2))
    def check(plan: dict[str, object]) -> None:
        ours = build_ours(schema, plan)
        theirs = build_theirs(THEIRS[schema.name], plan)
        data = theirs.SerializePartialToString(deterministic=True)
        assert ours.encode() == data
        assert Message.parse(schema, data) == ours
        assert ours.to_text() == text_format.MessageToString(theirs, as_utf8=True)

    check()


@given(st.data())
def test_damaged_nets(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in NETS if path.stat().st_size < 6000]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    stop = data.draw(st.integers(0, len(raw)))
    try:
        message = Message.parse(schema_of(path), bytes(raw[:stop]))
        message.check_required()
        build_anew(message).to_text()
    except TensorKeepError:
        return


def test_what_sets_these_messages_apart() -> None:
    # Arguments hold a tag for each number, tensors do not.
    assert len(Message(ARGUMENT, floats=[1.0] * 100).encode()) == 500
    assert len(Message(TENSOR, float_data=[1.0] * 100).encode()) == 403
    assert len(Message(TENSOR, int64_data=[-1] * 100).encode()) == 1003
    assert not TENSOR["dims"].packed
    assert Message(TENSOR).data_type == DATA_TYPE["FLOAT"] == 1
    assert Message(QTENSOR).data_type == DATA_TYPE["INT32"] == 2
    assert (DATA_TYPE["INT64"], DATA_TYPE["FLOAT16"], DATA_TYPE["DOUBLE"]) == (10, 12, 13)
    assert DEVICE_TYPE["PROTO_CUDA"] == 1
    assert Message(SCHEMAS["ModelInfo"]).predictorType == "SINGLE_PREDICTOR"
    assert Message(PREDICTOR_CONSTS).META_NET_DEF == "!!META_NET_DEF"
    assert Message(PREDICTOR_CONSTS).DEFERRED_BLOB_READER == "__DEFERRED_BLOB_READER__"
    assert Message(BLOB, type="Tensor", tensor=Message(TENSOR, dims=[2])).encode() == (
        b"\x12\x06Tensor\x1a\x02\x08\x02"
    )
    assert Message(TENSORS).protos == []


def test_the_old_name_of_a_device() -> None:
    device = Message.from_text(DEVICE, "device_type: 1 cuda_gpu_id: 3")
    assert device.to_text() == "device_type: 1\ndevice_id: 3\n"
