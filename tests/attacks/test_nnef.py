"""Models of NNEF that point elsewhere, lie about sizes or unpack to far more than they are."""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import nnef
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.formats import FORMATS
from tensorkeep.formats.nnef import gunzipped, reading
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.document import Document

TEXT = """version 1.0;
graph net( x ) -> ( y )
{
    x = external<scalar>(shape = [1]);
    w = variable<scalar>(shape = [1100], label = '%s');
    y = mul(x, w);
}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give the folder of a model, with tensors around it that are none of its business."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    with open(tmp_path / "secret.dat", "wb") as file:
        nnef.write_tensor(file, np.full(1100, 7, np.float32))
    os.utime(tmp_path / "secret.dat", (1, 1))  # the first read would set the time of access
    return home


def untouched(home: Path) -> bool:
    info = (home.parent / "secret.dat").stat()
    return (info.st_atime, info.st_mtime) == (1, 1)


def refused(home: Path, label: str, problem: str, kind: type[TensorKeepError]) -> None:
    (home / "graph.nnef").write_text(TEXT % label, encoding="utf-8")
    for target in (home, home / "graph.nnef"):
        with pytest.raises(kind, match=problem):
            tk.load(target)
    assert untouched(home)


def test_what_the_reference_reads_from_outside_is_refused_here(home: Path) -> None:
    (home / "graph.nnef").write_text(TEXT % "../secret")
    assert nnef.load_graph(str(home)).tensors["w"].data[0] == 7
    os.utime(home.parent / "secret.dat", (1, 1))
    refused(home, "../secret", "'../secret.dat', which is not inside its own folder", UnsafeError)


LABELS = ["sub/../../secret", "./secret", "//secret", "sub//secret", "a" * 300]


@pytest.mark.parametrize("label", LABELS)
def test_labels_that_lead_out_of_the_folder(home: Path, label: str) -> None:
    refused(home, label, "is not inside its own folder", UnsafeError)


def test_backslashes_and_nul(home: Path) -> None:
    for label in ("..\\\\secret", "a\\0b", "a\0b"):
        (home / "graph.nnef").write_text(TEXT % label)
        with pytest.raises(TensorKeepError):
            tk.load(home)
    assert untouched(home)


def test_absolute_labels_are_taken_as_below_the_folder(home: Path) -> None:
    label = str(home.parent / "secret")
    (home / "graph.nnef").write_text(TEXT % label)
    with pytest.raises(tk.errors.MissingError, match="has no data"):
        tk.load(home)
    assert untouched(home)


def test_links_are_not_followed(home: Path) -> None:
    secret = home.parent / "secret.dat"
    os.symlink(secret, home / "w.dat")
    refused(home, "w", "is a link to", UnsafeError)
    os.remove(home / "w.dat")
    os.symlink(home.parent, home / "up")
    refused(home, "up/secret", "is a link to", UnsafeError)
    os.link(secret, home / "w.dat")
    refused(home, "w", "is one of 2 names of a file", UnsafeError)
    os.remove(home / "w.dat")
    os.symlink(home.parent / "nothing", home / "w.dat")
    refused(home, "w", "is a link to .*nothing, outside its own folder", UnsafeError)
    os.remove(home / "w.dat")
    os.mkfifo(home / "w.dat")
    refused(home, "w", "is a pipe or device, not a file", UnsupportedError)


def test_a_linked_quantization_is_not_followed(home: Path) -> None:
    (home.parent / "quant").write_text('"w": linear_quantize(min = 0.0, max = 1.0, bits = 8);')
    os.symlink(home.parent / "quant", home / "graph.quant")
    refused(home, "w", "graph.quant: is a link to", UnsafeError)


def test_a_link_put_there_after_opening_is_not_followed(home: Path) -> None:
    with open(home / "w.dat", "wb") as file:
        nnef.write_tensor(file, np.zeros(1100, np.float32))
    (home / "graph.nnef").write_text(TEXT % "w")
    with tk.open(home) as state:
        os.remove(home / "w.dat")
        os.symlink(home.parent / "secret.dat", home / "w.dat")
        with pytest.raises(UnsafeError, match="is a link to"):
            state["w"].numpy()
    assert untouched(home)


def test_saving_follows_no_label_out_of_the_folder(home: Path) -> None:
    document = Document.parse(TEXT % "../secret")
    tensors = {"w": Tensor.of(np.zeros(1100, np.float32))}
    document.names["w"] = "w"
    for target in ("net.nnef", "net.nnef.tar"):
        tk.save(State(tensors, document=document), home / target)
        assert untouched(home)
        with tk.open(home / target) as state:
            assert list(state) == ["w"]
    with tarfile.open(home / "net.nnef.tar") as archive:
        assert archive.getnames() == ["graph.nnef", "tensorkeep-name/%2E.%2Fsecret.dat"]


def archived(*infos: tarfile.TarInfo, gz: bool = False) -> Location:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        graph = tarfile.TarInfo("graph.nnef")
        graph.size = len(TEXT)
        archive.addfile(graph, io.BytesIO(TEXT.encode()))
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    data = gzip.compress(out.getvalue()) if gz else out.getvalue()
    return Location(MemoryStore({"net.nnef.tgz": data}), "net.nnef.tgz")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MEMBERS = {
    "absolute": (member("/etc/passwd"), "'/etc/passwd', which could lead out of a folder"),
    "above": (member("../w.dat"), "'../w.dat', which could lead out of a folder"),
    "inside": (member("a/../../w.dat"), "which could lead out of a folder"),
    "backslash": (member("..\\w.dat"), "which could lead out of a folder"),
    "link": (member("w.dat", tarfile.SYMTYPE, "/etc/passwd"), "'w.dat' is a link, where a model"),
    "hard link": (member("w.dat", tarfile.LNKTYPE, "graph.nnef"), "'w.dat' is a hard link, where"),
    "device": (member("w.dat", tarfile.CHRTYPE), "'w.dat' is a device, where a model has files"),
    "pipe": (member("w.dat", tarfile.FIFOTYPE), "'w.dat' is a pipe, where a model has files"),
}


@pytest.mark.parametrize("gz", [False, True], ids=["tar", "tgz"])
@pytest.mark.parametrize("attack", MEMBERS)
def test_members_that_reach_out_of_the_archive(attack: str, gz: bool) -> None:
    info, problem = MEMBERS[attack]
    with pytest.raises(UnsafeError, match=re.escape(problem)):
        tk.open(archived(info, gz=gz))


def test_members_that_come_twice_or_have_holes() -> None:
    with pytest.raises(CorruptError, match=r"has the member 'w\.dat' twice"):
        tk.open(archived(member("w.dat"), member("./w.dat")))
    sparse = member("w.dat")
    sparse.pax_headers = {"GNU.sparse.major": "1"}
    with pytest.raises(UnsupportedError, match=r"'w\.dat' has holes"):
        tk.open(archived(sparse))


def test_a_path_in_an_extended_header_is_looked_at(tmp_path: Path) -> None:
    hidden = member("w.dat")
    hidden.pax_headers = {"path": "../../w.dat"}
    with pytest.raises(UnsafeError, match="which could lead out of a folder"):
        tk.open(archived(hidden))


def test_sizes_that_lie(tmp_path: Path) -> None:
    location = archived(member("w.dat"))
    store = location.store
    assert isinstance(store, MemoryStore)
    data = bytearray(store.data[location.key])
    at = data.index(b"w.dat")
    for size in (b"77777777777\0", b"\x80" + bytes(3) + b"\x7f" + bytes(7), b"\x80" + b"\xff" * 11):
        data[at + 124 : at + 136] = size
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        for whole in (bytes(data), gzip.compress(bytes(data))):
            key = Location(MemoryStore({"net.nnef.tgz": whole}), "net.nnef.tgz")
            with pytest.raises(CorruptError, match=r"cut short|has no size"):
                tk.open(key)


def bomb(mebibytes: int) -> bytes:
    """Give a gzip file of one member that holds so much of nothing."""
    deflater = zlib.compressobj(9, wbits=31)
    head = tarfile.TarInfo("graph.nnef")
    head.size = mebibytes << 20
    out = [deflater.compress(head.tobuf())]
    zeros = bytes(1 << 20)
    out += [deflater.compress(zeros) for _ in range(mebibytes)]
    return b"".join([*out, deflater.compress(bytes(1024)), deflater.flush()])


def test_an_archive_that_unpacks_to_far_more_than_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunzipped, "_BOMB_SIZE", 32 << 20)
    location = Location(MemoryStore({"net.nnef.tgz": bomb(80)}), "net.nnef.tgz")
    tracemalloc.start()
    with pytest.raises(UnsafeError, match="unpacks to over 200 times its size"):
        tk.open(location)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_texts_that_are_far_too_long(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    location = Location(MemoryStore({"net.nnef.tgz": bomb(70)}), "net.nnef.tgz")
    with pytest.raises(UnsafeError, match="its text of 73,400,320 bytes is over the limit"):
        tk.open(location)
    monkeypatch.setattr(reading, "MAX_TEXT", 300)
    refused(home, "w" * 200, "is over the limit of 300", UnsafeError)


def test_many_empty_gzip_members_end() -> None:
    data = gzip.compress(b"") * 20_000
    location = Location(MemoryStore({"net.nnef.tgz": data}), "net.nnef.tgz")
    assert not FORMATS["nnef-archive"].accepts(location)
    with pytest.raises(TensorKeepError):
        FORMATS["nnef-archive"].decode(location)


def test_a_tensor_that_claims_more_than_there_is(home: Path) -> None:
    extents = struct.pack("<8I", 1 << 15, 1 << 15, 4, 0, 0, 0, 0, 0)
    head = b"\x4e\xef\x01\x00" + struct.pack("<II", 0, 3) + extents + struct.pack("<II", 8, 1)
    (home / "w.dat").write_bytes(head.ljust(128, b"\0"))
    refused(home, "w", "says 0 bytes of data, but 8 bits for each element", CorruptError)
    claimed = head[:4] + struct.pack("<I", 0xFFFFFFFF) + head[8:]
    (home / "w.dat").write_bytes(claimed.ljust(128, b"\0"))
    refused(home, "w", "take 4,294,967,296", CorruptError)


def test_a_shape_that_no_array_has(home: Path) -> None:
    huge = TEXT.replace("[1100]", "[1000000000, 1000000000, 1000000000]") % "w"
    (home / "graph.nnef").write_text(huge)
    with pytest.raises(CorruptError, match="no array can have shape"):
        tk.open(home)
    (home / "graph.nnef").write_text(TEXT.replace("[1100]", f"[{'1, ' * 5000}1]") % "w")
    with pytest.raises(TensorKeepError):
        tk.open(home)
    (home / "graph.nnef").write_text(TEXT.replace("[1100]", "[-1]") % "w")
    with pytest.raises(TensorKeepError):
        tk.open(home)
