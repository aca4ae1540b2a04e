"""Time the first sight of large files in the viewer, and in Netron.

    python -m benchmarks.viewer --rounds 3

Each case starts the viewer's command anew and opens its page in a browser of its own: the time runs
from the start of the command until the table of tensors or the graph is on the page. Memory is the
peak of the server's process, and of the browser's process that draws the page. Files are in the
page cache; each figure is the median of the rounds. Needs the packages `netron` and `playwright`,
and a chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tensorkeep as tk

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_PATIENCE = 240  # seconds for a sight
_NETRON = (
    "import netron, sys; netron.start(sys.argv[1], address=('127.0.0.1', int(sys.argv[2])),"
    "browse=False); netron.wait()"
)
_OURS = (
    "import json, sys, time; from tensorkeep.viewer.server import serve;"
    "server = serve([sys.argv[2]], page=sys.argv[1]); server.answering.opened.check();"
    "print(json.dumps({'url': server.url}), flush=True); time.sleep(1000)"
)
_page = ""


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small files, to try the harness")
    parser.add_argument("--folder", type=Path, help="where to make the files (4 GB)")
    parser.add_argument("--page", help="the folder of another build of our page")
    given = parser.parse_args()
    global _page
    _page = given.page or ""
    print("| file | viewer | first sight (s) | server (MB) | page (MB) |")
    print("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name, make in {"safetensors": make_safetensors, "ONNX": make_onnx}.items():
            path = make(Path(folder), 1 if given.quick else 100)
            rows: dict[str, list[tuple[float, float, float] | str]] = {}
            for _ in range(given.rounds):
                for viewer, watch in {"tensorkeep": tensorkeep, "netron": netron}.items():
                    rows.setdefault(viewer, []).append(measure(watch, path))
            for viewer, found in rows.items():
                size = path.stat().st_size / 1e9
                print(f"| {name}, {size:.2f} GB | {viewer} | {row(found)} |", flush=True)
            path.unlink()


def row(found: list[tuple[float, float, float] | str]) -> str:
    """Write the medians, or why there are none."""
    times = [each for each in found if isinstance(each, tuple)]
    if not times:
        return f"{found[0]} | - | -"
    seconds, server, page = (statistics.median(column) for column in zip(*times, strict=True))
    return f"{seconds:.2f} | {server:,.0f} | {page:,.0f}"


# --- files --------------------------------------------------------------------------------------


def make_safetensors(folder: Path, scale: int) -> Path:
    """Write a language model of 32 layers: 2 GB at the scale of 100."""
    path = folder / "model.safetensors"
    tk.save(layers(32, 156 * scale), path, checksums=False)
    return path


def layers(count: int, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Make so many layers of 2 * size thousand float16s in each of two weights."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(size * 1000).astype(np.float16)
    weights = {}
    for layer in range(count):
        for part in ("attn.qkv", "mlp.up"):
            weights[f"layers.{layer}.{part}.weight"] = np.roll(values, layer).reshape(1000, size)
        weights[f"layers.{layer}.norm.weight"] = np.ones(1000, np.float16)
    return weights


def make_onnx(folder: Path, scale: int) -> Path:
    """Write a perceptron of 40 layers in one file: 1.6 GB at the scale of 100."""
    from onnx import TensorProto, helper

    width = 1000 * scale // 100 or 10
    rng = np.random.default_rng(0)
    values = rng.standard_normal((width, width * 10)).astype(np.float32)
    nodes, weights, last = [], [], "x"
    for layer in range(40):
        weight = values if layer % 2 == 0 else values.reshape(width * 10, width)
        name = f"layers.{layer}.weight"
        weights.append(helper.make_tensor(name, 1, weight.shape, weight.tobytes(), raw=True))
        nodes += [
            helper.make_node("MatMul", [last, name], [f"m{layer}"], name=f"/layers.{layer}/MatMul"),
            helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"], name=f"/layers.{layer}/Relu"),
        ]
        last = f"r{layer}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [value("x", TensorProto.FLOAT, ["batch", width])],
        [value(last, TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    path = folder / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    return path


# --- viewers ------------------------------------------------------------------------------------

Watch = Callable[[Path, "Browser"], "subprocess.Popen[str]"]


def measure(watch: Watch, path: Path) -> tuple[float, float, float] | str:
    """Give the seconds to the first sight and both peaks of memory, or what went wrong."""
    from playwright.sync_api import Error, sync_playwright

    with open(path, "rb") as file:
        while file.read(64 << 20):
            pass
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        session = browser.new_browser_cdp_session()
        begin = time.perf_counter()
        try:
            process = watch(path, browser)
            seconds = time.perf_counter() - begin
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            drawing = max(peak(each["id"]) for each in processes if each["type"] == "renderer")
            return seconds, peak(process.pid), drawing
        except Error as error:
            return f"none in {_PATIENCE} s" if "Timeout" in str(error) else "the page fails"
        finally:
            browser.close()
            for each in _started:
                each.kill()
                each.wait()
            _started.clear()


_started: list[subprocess.Popen[str]] = []


def start(*command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    _started.append(process)
    return process


def tensorkeep(path: Path, browser: Browser) -> subprocess.Popen[str]:
    program = ("-c", _OURS, _page) if _page else ("-m", "tensorkeep", "view")
    process = start(sys.executable, *program, str(path), "--no-browser", "--json")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    page = browser.new_page()
    page.set_default_timeout(_PATIENCE * 1000)
    if path.suffix == ".onnx":
        page.goto(f"{url}#/graph/0")
        page.get_by_role("application").wait_for()
        page.locator("main progress").first.wait_for(state="detached")
    else:
        page.goto(url)
        page.get_by_role("gridcell").first.wait_for()
    return process


def netron(path: Path, browser: Browser) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(sys.executable, "-c", _NETRON, str(path), str(port))
    url = f"http://127.0.0.1:{port}/"
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.01)
    page = browser.new_page()
    page.set_default_timeout(_PATIENCE * 1000)
    # What it would ask first: whether it may keep cookies, and whether to update.
    page.context.add_cookies([{"name": "consent", "value": "1", "url": url}])
    page.clock.set_system_time(_released())
    page.goto(url)
    page.locator("g.node, .node").first.wait_for(state="attached")
    return process


def _released() -> str:
    from importlib.metadata import files

    found = next(iter(files("netron") or ()))
    return time.strftime("%Y-%m-%d", time.gmtime(Path(str(found.locate())).stat().st_mtime))


def peak(process: int) -> float:
    """Give the most memory that a process has had, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
