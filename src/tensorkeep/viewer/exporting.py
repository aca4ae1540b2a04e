"""A report: the viewer's page as one HTML file, with recorded answers in place of the server.

The answers are those of the server, from the same functions. They are recorded in the order of
their worth within a budget; what does not fit is left out, and told.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tensorkeep.api import ProgressReport
from tensorkeep.convert import refuse_existing
from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.store import Location
from tensorkeep.stores import Target, locate
from tensorkeep.viewer.answering import Answering
from tensorkeep.viewer.app import PAGE
from tensorkeep.viewer.inlined import escaped, inlined

Answer = Callable[[str], bytes]  # what the server answers to a path, JSON or binary

BUDGET = 32_000_000
_TOGETHER = 64  # tensors whose statistics are asked for in one request
_MOST_SHOWN = 200  # tensors of a thing whose values are drawn
_COMPARED = 100  # tensors of a diff whose histograms are laid over one another


def export(
    targets: Sequence[Any],
    file: Target,
    *,
    exact: bool = False,
    budget: int = BUDGET,
    replace: bool = True,
    page: Path | None = None,
    progress: ProgressReport | None = None,
) -> list[str]:
    """Write what the viewer shows as one HTML file that needs no server and no network.

    The same things give the same bytes. The file appears whole or not at all.

    Args:
        targets: paths, URLs, Locations, Stores, States, Checkpointers, or nestings of arrays.
        file: where to write it.
        exact: read all tensors for their statistics, which are else a sample's.
        budget: bytes that the recorded answers may take.
        replace: replace what is there.
        page: the folder of the built page, for tests; the package's own otherwise.
        progress: called with how much is done, and of how much.

    Returns:
        Sentences on what was left out.

    Raises:
        TensorKeepError: nothing of what was given can be opened.
        ArgumentError: the budget cannot even hold the names of what is open, or something is there
            that is not to be replaced, or is what was given.
        StoreError: it cannot be written.

    >>> import tempfile
    >>> import numpy as np
    >>> export([{"w": np.zeros(3)}], f"{tempfile.mkdtemp()}/report.html")
    []
    """
    location = locate(file)
    if not location.key:
        raise ArgumentError("is a folder, not the name of a file", where=location.where)
    if not replace:
        refuse_existing(location)
    _refuse_own(targets, location)
    recorder = report(targets, exact=exact, budget=budget, progress=progress)
    try:
        pieces = inlined(recorder.answers, recorder.left_out, PAGE if page is None else page)
        location.store.put(location.key, pieces)
        location.store.commit()
    except BaseException:
        location.store.rollback()
        raise
    return recorder.left_out


def _refuse_own(targets: Sequence[Any], location: Location) -> None:
    """Refuse to write a report over what it tells of."""
    for target in targets:
        if not isinstance(target, str | os.PathLike):
            continue
        same = False
        with suppress(OSError, ValueError):
            same = os.path.samefile(target, location.where)
        if same or locate(target).where == location.where:
            raise ArgumentError(
                "is what the report is to tell of", where=location.where, cure="Name another file."
            )


def report(
    targets: Sequence[Any], *, exact: bool, budget: int, progress: ProgressReport | None = None
) -> Recorder:
    """Open things and record what a report shows of them."""
    with closing(Answering(targets)) as answering:
        answering.opened.check()
        return record(
            lambda path: answering.answer(path).body, budget, exact=exact, progress=progress
        )


class Recorder:
    """Answers that were recorded, and how much room is left for more.

    Args:
        answer: gives what the server answers.
        budget: bytes that all answers may take.
    """

    def __init__(self, answer: Answer, budget: int) -> None:
        self.answers: dict[str, bytes] = {}
        self.left_out: list[str] = []
        self._answer = answer
        self._room = budget

    def json(self, path: str) -> Any:
        """Record an answer, of a job its last one; None where it does not fit or cannot be had."""
        return self._keep(path, self.finished(path))

    def binary(self, path: str) -> bool:
        """Record an answer of numbers; False where it does not fit. One that is refused does."""
        answer = self.asked(path)
        return answer is None or self._keep(path, b'"%b"' % base64.b64encode(answer)) is not None

    def made(self, path: str, value: Any) -> bool:
        """Record what the server gives in parts only; False where it does not fit."""
        return self._keep(path, json.dumps(value, separators=(",", ":")).encode()) is not None

    def asked(self, path: str) -> bytes | None:
        """Ask without recording; None where the server refuses."""
        try:
            return self._answer(path)
        except (TensorKeepError, OSError):
            return None

    def finished(self, path: str) -> bytes | None:
        """Ask without recording, until a job is finished."""
        pause = 0.002
        while (answer := self.asked(path)) is not None:
            value = json.loads(answer)
            if not isinstance(value, dict) or value.get("finished", True) or value.get("problem"):
                return answer
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
        return None

    def _keep(self, path: str, answer: bytes | None) -> Any:
        if answer is None or path in self.answers:
            return None
        size = len(escaped(answer)) + len(path) + 6
        if size > self._room:
            return None
        self._room -= size
        self.answers[path] = answer
        return json.loads(answer)


def record(
    answer: Answer, budget: int, *, exact: bool, progress: ProgressReport | None = None
) -> Recorder:
    """Record what a report shows of all that is open, the most needed first.

    Raises:
        ArgumentError: not even the listing fits.
    """
    recorder = Recorder(answer, budget)
    things = recorder.json("things")
    if things is None:
        raise ArgumentError(f"a report of {budget:,} bytes cannot hold what is open")
    shown = [thing for thing in things["things"] if not thing["problem"]]
    steps = [last for thing in shown if (last := _record_run(recorder, thing)) is not None]
    shown += steps
    for thing in shown:
        _record_listing(recorder, thing)
    _record_diff(recorder, things["things"])
    for place, thing in enumerate(shown):
        if thing["kind"] == "state":
            _record_statistics(recorder, thing, exact)
        if progress is not None:
            progress(place + 1, 2 * len(shown))
    for place, thing in enumerate(shown):
        if thing["kind"] == "state":
            _record_values(recorder, thing)
        if progress is not None:
            progress(len(shown) + place + 1, 2 * len(shown))
    return recorder


def _record_run(recorder: Recorder, thing: dict[str, Any]) -> dict[str, Any] | None:
    """Record the timeline of a run; give its last checkpoint as a thing."""
    if thing["kind"] != "run":
        return None
    run = recorder.json(f"runs/{thing['id']}")
    if run is None:
        recorder.left_out.append(f"{thing['name']}: its checkpoints")
        return None
    if recorder.json(f"runs/{thing['id']}/course?exact=0") is None:
        recorder.left_out.append(f"{thing['name']}: its tensors over the steps")
    sound = [step["step"] for step in run["steps"] if not step["problem"]]
    if not sound:
        return None
    if len(sound) > 1:
        recorder.left_out.append(f"{thing['name']}: tensors of all checkpoints but the last")
    last: dict[str, Any] | None = recorder.json(f"things/{thing['id']}@{sound[-1]}")
    return last


def _record_listing(recorder: Recorder, thing: dict[str, Any]) -> None:
    recorder.json(f"things/{thing['id']}")
    if thing["kind"] != "state":
        return
    for what in ("tensors", "metadata", *(["graph"] if thing["dialect"] else [])):
        if recorder.json(f"things/{thing['id']}/{what}") is None:
            recorder.left_out.append(f"{thing['name']}: its {what}")


def _record_diff(recorder: Recorder, things: Sequence[dict[str, Any]]) -> None:
    """Record how the first two things differ."""
    if len(things) < 2 or any(thing["kind"] != "state" for thing in things[:2]):
        return
    a, b = things[0]["id"], things[1]["id"]
    job = recorder.json(f"diff?a={a}&b={b}")
    if job is None or not job["result"]:
        recorder.left_out.append("how the first two differ")
        return
    differing = [row for row in job["result"]["tensors"] if not row["equal"]]
    for row in differing[:_COMPARED]:
        recorder.json(f"diff/histograms?a={a}&b={b}&ia={row['a']}&ib={row['b']}")
    if len(differing) > _COMPARED:
        recorder.left_out.append(
            f"histograms of {len(differing) - _COMPARED:,} tensors that differ"
        )


def _record_statistics(recorder: Recorder, thing: dict[str, Any], exact: bool) -> None:
    base = f"things/{thing['id']}"
    if exact:
        recorder.finished(f"{base}/exact")
    known: list[Any] = []
    for first in range(0, thing["tensors"], _TOGETHER):
        of = ",".join(map(str, range(first, min(first + _TOGETHER, thing["tensors"]))))
        known += json.loads(recorder.asked(f"{base}/statistics?of={of}") or b"[]")
    kept = known
    while kept and not recorder.made(f"{base}/statistics", kept):
        kept = kept[: len(kept) // 2]
    if len(kept) < thing["tensors"]:
        missing = thing["tensors"] - len(kept)
        recorder.left_out.append(f"{thing['name']}: statistics of {missing:,} tensors")


def _record_values(recorder: Recorder, thing: dict[str, Any]) -> None:
    """Record the first window and tiles of tensors that differ in kind before those that repeat."""
    base = f"things/{thing['id']}/tensors"
    if base not in recorder.answers:
        return
    listing = json.loads(recorder.answers[base])
    drawn = 0
    for place in _by_variety(listing):
        if drawn == _MOST_SHOWN or not recorder.binary(f"{base}/{place}/window"):
            break
        if len(listing["shapes"][place]) == 4:
            recorder.binary(f"{base}/{place}/tiles")
        drawn += 1
    if drawn < thing["tensors"]:
        recorder.left_out.append(f"{thing['name']}: values of {thing['tensors'] - drawn:,} tensors")


def _by_variety(listing: dict[str, Any]) -> Iterator[int]:
    """Give the places of tensors: one of each dtype and shape, largest first, then the others."""
    largest = sorted(range(len(listing["names"])), key=lambda n: (-listing["nbytes"][n], n))
    seen: set[tuple[Any, ...]] = set()
    others = []
    for place in largest:
        kind = (listing["dtypes"][place], *listing["shapes"][place])
        if kind in seen:
            others.append(place)
        else:
            seen.add(kind)
            yield place
    yield from others
