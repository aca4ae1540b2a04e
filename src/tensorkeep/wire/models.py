"""Models of other libraries that are protobuf messages or flatbuffers, told by their first bytes.

Protobuf has no magic number, so a message is told by which fields stand in it, of which wire types,
and by what has to be inside them. Facts: the schemas that ONNX, TensorFlow, Caffe and Core ML
publish (onnx.proto, graph.proto, saved_model.proto, caffe.proto, Model.proto); flatbuffers have an
identifier in bytes 4 to 7.
"""

from __future__ import annotations

import re

from tensorkeep.wire.glimpse import FIXED32, FIXED64, LENGTH, VARINT, Glimpse, Known, glimpse

_L, _V = (LENGTH,), (VARINT,)

_FLATBUFFERS = {
    b"TFL3": "a TensorFlow Lite model",
    b"PTMF": "a PyTorch Mobile model",
    b"ET12": "an ExecuTorch program",
}

_ONNX: Known = {1: _V, 5: _V, **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), _L)}
_ONNX_TENSOR: Known = {
    1: (VARINT, LENGTH),
    2: _V,
    4: (LENGTH, FIXED32),
    5: (LENGTH, VARINT),
    7: (LENGTH, VARINT),
    10: (LENGTH, FIXED64),
    11: (LENGTH, VARINT),
    14: _V,
    **dict.fromkeys((3, 6, 8, 9, 12, 13, 16), _L),
}
_ONNX_TYPES = 30

_GRAPH: Known = {1: _L, 2: _L, 3: _V, 4: _L, 5: _L}
_NODE: Known = dict.fromkeys(range(1, 8), _L)
_SAVED_MODEL: Known = {1: _V, 2: _L}
_META_GRAPH: Known = dict.fromkeys(range(1, 8), _L)
_META_INFO: Known = {**dict.fromkeys((1, 2, 3, 4, 5, 6, 8), _L), 7: _V}
_OPS: Known = {1: _L}

_CAFFE: Known = {
    4: (LENGTH, VARINT),
    5: _V,
    7: _V,
    **dict.fromkeys((1, 2, 3, 6, 8, 100), _L),
}
_CAFFE_LAYER: Known = {
    5: (LENGTH, FIXED32),
    10: _V,
    11: (LENGTH, VARINT),
    **dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9, *range(100, 200)), _L),
}
_CAFFE_OLD_LAYER: Known = {
    5: _V,
    7: (LENGTH, FIXED32),
    8: (LENGTH, FIXED32),
    35: (LENGTH, FIXED32),
    1002: (LENGTH, VARINT),
    **dict.fromkeys((1, 2, 3, 4, 6, *range(9, 35), *range(36, 50), 1001), _L),
}

_CORE_ML: Known = {1: _V, 2: _L, 10: _V, **dict.fromkeys(range(200, 3100), _L)}
_CORE_ML_FEATURES = (1, 10)
_CORE_ML_DESCRIPTION: Known = dict.fromkeys((1, 10, 11, 12, 13, 20, 21, 50, 100), _L)
_CORE_ML_FEATURE: Known = {1: _L, 2: _L, 3: _L}
_LATEST_CORE_ML = 30

_META_NET: Known = dict.fromkeys(range(1, 11), _L)

_WORD = re.compile(rb"[A-Za-z_][\w.:>\-/]{0,200}")
_LINE = re.compile(rb"[^\x00-\x1f]{1,1000}")
_ONNX_TEXT = re.compile(rb"\s*ir_version\s*:")
_CAFFE_TEXT = re.compile(rb"^layers?\s*:?\s*\{", re.MULTILINE)
_GRAPH_TEXT = re.compile(rb"\s*node\s*\{\s*name\s*:")


def name_model(head: bytes, size: int) -> str:
    r"""Name the model of another library that a file is; empty for anything else.

    Args:
        head: the first bytes of the file.
        size: how many it has.

    >>> name_model(b"\x1c\0\0\0TFL3" + bytes(12), 1000)
    'a TensorFlow Lite model'
    """
    if head[4:8] in _FLATBUFFERS:
        return _FLATBUFFERS[head[4:8]]
    if _ONNX_TEXT.match(head):
        return "an ONNX model as text"
    if _GRAPH_TEXT.match(head):
        return "a TensorFlow GraphDef as text"
    for name, is_one in _TESTS.items():
        if is_one(head, size):
            return name
    if is_meta_net(head, size):
        return "a Caffe2 MetaNetDef"
    return "a Caffe 1 net" if _CAFFE_TEXT.search(head) else ""


def is_meta_net(head: bytes, size: int) -> bool:
    """A MetaNetDef of Caffe2: named nets and lists of blobs."""
    found = glimpse(head, size, _META_NET)
    maps = [field.data for field in found or () if field.number in (1, 2)]
    return bool(maps) and all(re.match(rb"\n.[A-Z_]+_TYPE", data, re.DOTALL) for data in maps)


def is_onnx(head: bytes, size: int) -> bool:
    """An ONNX model: its version first, then texts, a graph and operator sets."""
    found = glimpse(head, size, _ONNX)
    if not found or found[0].number != 1 or _count(found, 1) != 1:
        return False
    return any(field.number in (7, 8) for field in found)


def is_onnx_tensor(head: bytes, size: int) -> bool:
    """A tensor of ONNX, as its test data hold them: a type, and bytes or a name."""
    found = glimpse(head, size, _ONNX_TENSOR)
    types = [field.data for field in found or () if field.number == 2]
    if not found or len(types) != 1 or not 0 < types[0][0] < _ONNX_TYPES or len(types[0]) > 1:
        return False
    names = [field.data for field in found if field.number == 8]
    if not all(map(_LINE.fullmatch, names)) or len(names) > 1:
        return False
    return found[0].number in (1, 2) and (bool(names) or _count(found, 9) == 1)


def is_graph(head: bytes, size: int) -> bool:
    """TensorFlow's GraphDef: nodes with a name and an operation."""
    found = glimpse(head, size, _GRAPH)
    nodes = [field for field in found or () if field.number == 1]
    return bool(nodes) and all(map(_is_node, nodes))


def _is_node(field: Glimpse) -> bool:
    found = field.fields(_NODE)
    if not found or found[0].number != 1:
        return not field.whole and field.data[:1] == b"\n"
    operations = [row for row in found if row.number == 2]
    if not operations:
        return not field.whole
    return len(operations) == 1 and bool(_WORD.fullmatch(operations[0].data))


def is_saved_model(head: bytes, size: int) -> bool:
    """TensorFlow's SavedModel: its version, then graphs that begin with what they need."""
    found = glimpse(head, size, _SAVED_MODEL)
    if not found or found[0].number != 1 or found[0].data != b"\x01" or _count(found, 1) != 1:
        return False
    graphs = [field for field in found if field.number == 2]
    return bool(graphs) and all(map(_is_meta_graph, graphs))


def _is_meta_graph(field: Glimpse) -> bool:
    found = field.fields(_META_GRAPH)
    if not found or found[0].number not in (1, 2) or _count(found, 1) > 1:
        return False
    if found[0].number == 2:
        return is_graph(found[0].data, len(found[0].data) if found[0].whole else 1 << 62)
    about = found[0].fields(_META_INFO)
    if not about:
        return False
    operations = [row for row in about if row.number == 2]
    return all(row.fields(_OPS) for row in operations) and (
        bool(operations) or any(row.number in (4, 5) for row in about)
    )


def is_caffe(head: bytes, size: int) -> bool:
    """A model of Caffe 1, `.caffemodel`: layers with a name and a type, after the net's name."""
    found = glimpse(head, size, _CAFFE)
    if not found or _count(found, 1) > 1:
        return False
    names = [field.data for field in found if field.number == 1]
    layers = [field for field in found if field.number == 100]
    old_layers = [field for field in found if field.number == 2]
    if not all(map(_LINE.fullmatch, filter(None, names))) or not layers + old_layers:
        return False
    return all(map(_is_layer, layers)) and all(map(_is_old_layer, old_layers))


def _is_layer(field: Glimpse) -> bool:
    found = field.fields(_CAFFE_LAYER)
    types = [row.data for row in found or () if row.number == 2]
    return len(types) == 1 and bool(_WORD.fullmatch(types[0]))


def _is_old_layer(field: Glimpse) -> bool:
    found = field.fields(_CAFFE_OLD_LAYER)
    if not found:
        return False
    return not field.whole or (_count(found, 4) == 1 and _count(found, 5) == 1)


def is_core_ml(head: bytes, size: int) -> bool:
    """A Core ML model: its version, then a description with inputs or outputs."""
    found = glimpse(head, size, _CORE_ML)
    if not found or found[0].number != 1 or len(found[0].data) != 1:
        return False
    described = [field for field in found if field.number == 2]
    if not 0 < found[0].data[0] <= _LATEST_CORE_ML or len(described) != 1:
        return False
    rows = described[0].fields(_CORE_ML_DESCRIPTION)
    features = [row for row in rows or () if row.number in _CORE_ML_FEATURES]
    return bool(features) and all(map(_is_feature, features))


def _is_feature(field: Glimpse) -> bool:
    found = field.fields(_CORE_ML_FEATURE)
    if not found:
        return not field.whole
    return found[0].number == 1 and bool(_LINE.fullmatch(found[0].data))


def _count(found: list[Glimpse], number: int) -> int:
    return sum(field.number == number for field in found)


_TESTS = {
    "an ONNX model": is_onnx,
    "an ONNX tensor": is_onnx_tensor,
    "a TensorFlow SavedModel": is_saved_model,
    "a TensorFlow GraphDef": is_graph,
    "a Core ML model": is_core_ml,
    "a Caffe 1 model": is_caffe,
}


_ARCHITECTURE = re.compile(rb'\s*\{\s*"tensorkeep"\s*:\s*"architecture"')


def is_architecture(head: bytes) -> bool:
    """JSON whose first member says that it is the architecture of a model.

    >>> is_architecture(b'{"tensorkeep": "architecture", "version": 1}')
    True
    """
    return _ARCHITECTURE.match(head) is not None
