"""The cache on a local disk: what is read once is not fetched again, and never believed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.servers import FileServer, Proxy

from tensorkeep import errors
from tensorkeep.source import Source
from tensorkeep.stores.object import ObjectStore
from tensorkeep.stores.object.cache import BLOCK, Cache, chosen

MIB = 1 << 20
DATA = np.random.default_rng(2).integers(0, 256, 3 * BLOCK + 12345, np.uint8).tobytes()


@pytest.fixture
def proxy(http: FileServer) -> Iterator[Proxy]:
    http.files["data"] = DATA
    with Proxy(http.port) as proxy:
        yield proxy


def opened(proxy: Proxy, folder: Path | None, **options: object) -> Source:
    store = ObjectStore(f"http://127.0.0.1:{proxy.port}", cache=folder, **options)
    return store.get("data")


def blocks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_reading_asks_only_for_the_version(proxy: Proxy, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    source = opened(proxy, folder)
    assert source.read(0, len(DATA)) == DATA
    assert proxy.count() <= 3
    assert len(blocks(folder)) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))
    proxy.forget()
    again = opened(proxy, folder)
    assert again.read(0, len(DATA)) == DATA
    assert again.read(3 * BLOCK + 5, 3 * BLOCK + 9) == DATA[3 * BLOCK + 5 : 3 * BLOCK + 9]
    assert proxy.count() == 1
    http_bytes = proxy.received()
    assert http_bytes <= 256 << 10


def test_the_environment_names_it(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORKEEP_CACHE", str(tmp_path / "here"))
    opened(proxy, None).read(MIB, 2 * MIB)
    assert len(blocks(tmp_path / "here")) == 1
    monkeypatch.delenv("TENSORKEEP_CACHE")
    assert chosen() is None


@pytest.mark.parametrize("damage", ["bit", "digest", "short", "long", "empty", "folder", "link"])
def test_damaged_blocks_are_fetched_anew(proxy: Proxy, tmp_path: Path, damage: str) -> None:
    opened(proxy, tmp_path).read(0, len(DATA))
    block = blocks(tmp_path)[1]
    data = bytearray(block.read_bytes())
    if damage == "bit":
        data[1000] ^= 4
    elif damage == "digest":
        data[3] ^= 4
    elif damage == "short":
        del data[-1]
    elif damage == "long":
        data.append(0)
    elif damage == "empty":
        data.clear()
    block.unlink()
    if damage == "folder":
        block.mkdir()
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        block.symlink_to(tmp_path / "elsewhere")
    else:
        block.write_bytes(data)
    proxy.forget()
    assert opened(proxy, tmp_path).read(0, len(DATA)) == DATA
    assert proxy.count() == 2
    assert proxy.received() <= BLOCK + (256 << 10)
    proxy.forget()
    assert opened(proxy, tmp_path).read(0, len(DATA)) == DATA
    assert proxy.count() == (2 if damage == "folder" else 1)


def test_another_version_is_another_object(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    opened(proxy, tmp_path).read(0, len(DATA))
    http.files["data"] = DATA[::-1]
    assert opened(proxy, tmp_path).read(0, len(DATA)) == DATA[::-1]
    assert len(blocks(tmp_path)) == 8


def test_without_an_etag_nothing_is_kept(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    http.etags = False
    assert opened(proxy, tmp_path).read(0, len(DATA)) == DATA
    assert not blocks(tmp_path)


def test_the_oldest_make_room(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    size = 6 * BLOCK
    for turn in range(4):
        http.files["data"] = bytes([turn]) + DATA[1:]
        opened(proxy, tmp_path, cache_size=size).read(0, len(DATA))
        for path in blocks(tmp_path):
            info = path.stat()
            os.utime(path, (info.st_atime - 100, info.st_mtime - 100))
    kept = sum(path.stat().st_size for path in blocks(tmp_path))
    assert kept <= size + BLOCK + 100
    proxy.forget()
    assert opened(proxy, tmp_path, cache_size=size).read(0, len(DATA))[0] == 3
    assert proxy.count() <= 2


def test_a_disk_that_fails_fails_no_read(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert opened(proxy, file / "below").read(0, len(DATA)) == DATA
    assert opened(proxy, file).read(0, len(DATA)) == DATA


def test_a_folder_that_cannot_be_written(proxy: Proxy, unprivileged: Path) -> None:
    folder = unprivileged / "cache"
    opened(proxy, folder).read(0, BLOCK)
    kept = blocks(folder)[0].parent
    os.chmod(folder, 0o500)
    os.chmod(kept, 0o500)
    try:
        assert opened(proxy, folder).read(0, len(DATA)) == DATA
        assert len(blocks(folder)) == 1
    finally:
        os.chmod(folder, 0o700)
        os.chmod(kept, 0o700)


def test_a_folder_of_everybodys_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(errors.ArgumentError, match="others may write there"):
        Cache(tmp_path)
    with pytest.raises(errors.ArgumentError, match="keeps nothing"):
        Cache(tmp_path / "a", 0)


def test_threads_and_processes_share_it(proxy: Proxy, tmp_path: Path) -> None:
    source = opened(proxy, tmp_path)
    wrong: list[int] = []

    def read(at: int) -> None:
        stop = min(at + 3 * MIB, len(DATA))
        if source.read(at, stop) != DATA[at:stop]:
            wrong.append(at)

    threads = [threading.Thread(target=read, args=(at,)) for at in range(0, len(DATA), 3 * MIB)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:  # pragma: no cover
            try:
                good = opened(proxy, tmp_path).read(0, len(DATA)) == DATA
                os._exit(0 if good else 1)
            finally:
                os._exit(2)
        children.append(child)
    for thread in threads:
        thread.join()
    assert not wrong
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(blocks(tmp_path)) == 4
    assert not list(tmp_path.glob("*.part"))
