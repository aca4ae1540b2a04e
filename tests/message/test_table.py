from __future__ import annotations

import pytest

from tensorkeep.errors import ArgumentError
from tensorkeep.message import Message, enums, schemas


def test_rows() -> None:
    table = schemas(
        "\nenum Kind: NONE 0, SOME 1,\n    MORE -5\n"
        "Box\n  3 inner repeated Box\n  1 kind required Kind = SOME\n"
        '  2 name string = "none" alias title\n  4 sizes packed int32\n  5 flag bool = true\n'
    )
    box = table["Box"]
    assert [field.name for field in box.fields] == ["kind", "name", "inner", "sizes", "flag"]
    assert (box["kind"].label, box["kind"].default) == ("required", 1)
    assert box["inner"].message is box
    assert (box["name"].default, box["name"].alias, box["flag"].default) == ("none", "title", True)
    assert (box["sizes"].packed, box["sizes"].numeric, box["inner"].numeric) == (True, True, False)
    kind = enums("enum Kind: NONE 0, SOME 1, ALSO 1")["Kind"]
    assert (kind["ALSO"], kind.names[1]) == (1, "SOME")
    with pytest.raises(ArgumentError, match="NONE, SOME"):
        kind["OTHER"]
    with pytest.raises(ArgumentError, match="no field 'size'"):
        box["size"]


@pytest.mark.parametrize(
    "text",
    [
        "Box\n  1 a",
        "Box\n  a 1 int32",
        "Box\n  0 a int32",
        "Box\n  536870912 a int32",
        "Box\n  1 a int33",
        "Box\n  1 a enum",
        "Box\n  1 a packed string",
        "Box\n  1 a packed Box",
        "Box\n  1 a int32 = 3 4",
        "Box\n  1 a int32 or 4",
        "Box\n  1 a int32 = x",
        "Box\n  1 a string = x",
        "Box\n  1 a int32\n  1 b int32",
        "Box\n  1 a int32\n  2 a int32",
        "Box proto4\n  1 a int32",
        "Box\nBox",
        "  1 a int32",
        "enum Kind: A",
        "enum Kind: A b",
        "enum Kind: A 0\nBox\n  1 a Kind = B",
    ],
)
def test_rows_that_are_none(text: str) -> None:
    with pytest.raises(ArgumentError):
        schemas(text)


def test_proto3() -> None:
    table = schemas("Box proto3\n  1 a int32\n  2 b optional int32\n  3 c repeated int32")
    box = Message(table["Box"], a=0, b=0, c=[0, 1])
    assert box.encode().hex(" ") == "10 00 1a 02 00 01"
