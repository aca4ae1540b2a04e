from __future__ import annotations

from pathlib import Path

import pytest

import tensorkeep as tk
from tensorkeep.mapping import known_maps, read_map, renaming

HEAD = "tensorkeep-map = 1\n"


def written(path: Path, text: str) -> str:
    path.write_text(HEAD + text)
    return str(path)


@pytest.mark.parametrize("name", known_maps())
def test_the_maps_that_come_with_it(name: str) -> None:
    assert len(known_maps()[name]) > 20
    assert read_map(name)


def test_a_map_of_all_there_is(tmp_path: Path) -> None:
    rules = read_map(
        written(
            tmp_path / "all.toml",
            """
            about = "an example"
            [[rule]]
            from = "*.kernel"
            ndim = 2
            beside = "*.gamma"
            beside-ndim = 1
            to = "*.weight"
            axes = [1, 0]
            reshape = [0, -1]
            dtype = "float16"
            [[rule]]
            from = ["*.q", "*.k"]
            to = "*.qk"
            join = 0
            [[rule]]
            from = "*.qk"
            to = ["*.q", "*.k"]
            split = 0
            [[rule]]
            from = "*.step"
            drop = true
            """,
        )
    )
    assert [rule.sources for rule in rules] == [
        ("*.kernel",),
        ("*.q", "*.k"),
        ("*.qk",),
        ("*.step",),
    ]
    assert rules[0].axes == (1, 0)
    assert rules[0].dtype is tk.dtype("float16")
    assert rules[3].where.endswith("all.toml: rule 4")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1", "has 'x'"),
        ("", "has no \\[\\[rule\\]\\]"),
        ("rule = [3]", "rule 1: is 3, not a table"),
        ("[[rule]]\nfrom = 3", "has 3 for from, not str or list"),
        ("[[rule]]\nfrom = 'a'\nndim = true", "has True for ndim, not int"),
        ("[[rule]]\nto = 'a'", "has no `from`"),
        ("[[rule]]\nfrom = 'a'\nshape = 3", "has 'shape'.*reshape"),
        ("[[rule]]\nfrom = 'a'\nto = '*'", "asks for 1 parts of a name, 'a' remembers 0"),
        ("[[rule]]\nfrom = ['a', 'b']\nto = 'c'", "`join` takes several `from`"),
        ("[[rule]]\nfrom = 'a'\nto = 'c'\njoin = 0", "`join` takes several `from`"),
        ("[[rule]]\nfrom = ['a', 'b']\njoin = 0", "`join` takes several `from`"),
        ("[[rule]]\nfrom = 'a'\nto = ['b', 'c']", "`split` takes several `to`"),
        ("[[rule]]\nfrom = 'a'\ndrop = true\nto = 'b'", "nothing else can become of it"),
        ("[[rule]]\nfrom = 'a'\naxes = ['x']", "for whole numbers"),
        ("[[rule]]\nfrom = 'a'\naxes = [-2]", "for whole numbers"),
        ("[[rule]]\nfrom = 'a'\ndtype = 'floaty'", "no element type is called 'floaty'"),
        ("[[rule]]\nfrom = 're:('", "is no regular expression"),
        ("[[rule]]\nfrom = ['']", "for a name"),
        ("[[", "is not TOML"),
    ],
)
def test_a_map_that_is_none(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(tk.TensorKeepError, match=problem):
        read_map(written(tmp_path / "m.toml", text))


def test_files_that_are_no_maps(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("[tool]\nname = 'x'\n")
    with pytest.raises(ValueError, match=r"is no map.*begins with the line `tensorkeep-map = 1`"):
        read_map(str(tmp_path / "m.toml"))
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_map(str(tmp_path / "m.toml"))
    (tmp_path / "m.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ValueError, match="too large"):
        read_map(str(tmp_path / "m.toml"))
    with pytest.raises(FileNotFoundError, match=r"no such map file.*keras-torch"):
        read_map("keras_torch")


def test_renamings_that_are_none() -> None:
    with pytest.raises(ValueError, match="is not a pattern and its replacement"):
        renaming(["ab"])
    with pytest.raises(ValueError, match="a new name is text"):
        renaming({"a": 3})
    with pytest.raises(ValueError, match="rename takes patterns and new names, not int"):
        renaming(3)  # type: ignore[arg-type]
