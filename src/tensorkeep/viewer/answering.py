"""What is answered to what is asked: each address of the API, without HTTP.

The server answers from here, and a report is recorded from here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from tensorkeep.api import ProgressReport
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.version import __version__
from tensorkeep.viewer import listing
from tensorkeep.viewer.answers import Job, Metadata, Run, Statistics, Tensors, Thing, Things, Values
from tensorkeep.viewer.encoding import pack, to_json
from tensorkeep.viewer.guard import GIVEN, NOTHING
from tensorkeep.viewer.jobs import Jobs
from tensorkeep.viewer.opened import Opened
from tensorkeep.viewer.parameters import Parameters

JSON = "application/json"
BINARY = "application/octet-stream"
_MOST_MEASURED = 64
_MOST_PIXELS = 4096  # of an edge of a window
_MOST_TILES = 1024
_PATIENCE = 2.0  # seconds for all samples of a request
_KEPT = 2.0  # seconds that what was found of a run is told, which may go on


class Answer(NamedTuple):
    """What is answered: bytes, and the media type that says how to read them."""

    body: bytes
    media: str = JSON


class Answering:
    """Answers what a page asks about some things; used by several threads.

    Args:
        targets: what `Opened` takes.

    >>> import numpy as np
    >>> answering = Answering([{"w": np.zeros(3)}])
    >>> answering.answer("things/0/tensors").body
    b'{"names":["w"],"dtypes":["float64"],"shapes":[[3]],"nbytes":[24],"remarks":{},"left_out":0}'
    >>> answering.close()
    """

    def __init__(self, targets: Sequence[Any]) -> None:
        from tensorkeep.viewer.measured import Measured

        self.opened = Opened(targets)
        self._jobs = Jobs()
        self._measured = Measured()

    def answer(self, path: str) -> Answer:
        """Answer what is asked, such as "things/0/statistics?of=0,1".

        Raises:
            MissingError: there is no such address, id or tensor.
            ArgumentError: a parameter makes no sense.
            TensorKeepError: what is asked about cannot be read.
        """
        address, _, query = path.partition("?")
        for pattern, method in _ROUTES:
            if match := pattern.fullmatch(address):
                asked = Parameters(query)
                found = method(self, asked, *map(unquote, match.groups()))
                return found if isinstance(found, Answer) else Answer(to_json(found))
        raise MissingError(NOTHING, cure=GIVEN)

    def close(self, patience: float = 5.0) -> None:
        """Stop what works in the background, and close what is open."""
        self._jobs.close(patience)
        self.opened.close()

    # --- what is open ---------------------------------------------------------------------------

    def things(self, asked: Parameters) -> Things:
        asked.finish()
        return Things(__version__, self.opened.things())

    def thing(self, asked: Parameters, id: str) -> Thing:
        asked.finish()
        return self.opened.thing(id)

    # --- tensors --------------------------------------------------------------------------------

    def tensors(self, asked: Parameters, id: str) -> Tensors:
        asked.finish()
        with self.opened.using(id) as held:
            return listing.tensors(held.state)

    def metadata(self, asked: Parameters, id: str) -> Metadata:
        asked.finish()
        with self.opened.using(id) as held:
            return listing.metadata(held.state)

    def statistics(self, asked: Parameters, id: str) -> list[Statistics]:
        of = asked.integers("of", most=_MOST_MEASURED)
        asked.finish()
        if of is None:
            raise ArgumentError("of= is missing", cure="Name the places of some tensors.")
        with self.opened.using(id) as held:
            for place in of:
                held.tensor(place)
            until = time.monotonic() + _PATIENCE
            return [self._measured.sampled(held.state, place, until) for place in of]

    def exact(self, asked: Parameters, id: str) -> Job:
        of = asked.integers("of", most=1)
        asked.finish()
        with self.opened.using(id) as held:
            for place in of or ():
                held.tensor(place)

        def one(report: ProgressReport, place: int) -> Statistics:
            with self.opened.using(id) as held:
                return self._measured.exact(held.state, place, report)

        def every(report: ProgressReport) -> None:
            with self.opened.using(id) as held:
                done, total = 0, held.state.nbytes
                for place in range(len(held.names)):
                    report(done, total)

                    def further(part: int, _: int, before: int = done) -> None:
                        report(before + part, total)

                    self._measured.exact(held.state, place, further)
                    done += held.tensor(place).nbytes

        work = partial(one, place=of[0]) if of else every
        return self._jobs.ask(("exact", id, self.opened.stamp(id), of), work)

    def window(self, asked: Parameters, id: str, place: str) -> Answer:
        from tensorkeep.viewer import windows

        axes, at, rows, cols = _slice(asked)
        most = asked.integer("most", 256, 1, _MOST_PIXELS)
        asked.finish()
        with self.opened.using(id) as held:
            tensor = held.tensor(int(place))
            return Answer(pack(*windows.window(tensor, axes, at, rows, cols, most)), BINARY)

    def values(self, asked: Parameters, id: str, place: str) -> Values:
        from tensorkeep.viewer import windows

        axes, at, rows, cols = _slice(asked)
        asked.finish()
        with self.opened.using(id) as held:
            return windows.values(held.tensor(int(place)), axes, at, rows, cols)

    def tiles(self, asked: Parameters, id: str, place: str) -> Answer:
        from tensorkeep.viewer import windows

        layout = asked.text("layout", "", ("", "oihw", "hwio"))
        first, count = asked.integer("first", 0), asked.integer("count", 64, 1, _MOST_TILES)
        asked.finish()
        with self.opened.using(id) as held:
            tensor = held.tensor(int(place))
            return Answer(pack(*windows.tiles(tensor, layout, first, count)), BINARY)

    def graph(self, asked: Parameters, id: str) -> Any:
        from tensorkeep.viewer.graphs import graph

        asked.finish()
        with self.opened.using(id) as held:
            return graph(held.state)

    def inferred(self, asked: Parameters, id: str) -> Job:
        from tensorkeep.viewer.graphs import graph

        asked.finish()
        with self.opened.using(id):
            pass

        def work(_: ProgressReport) -> Any:
            with self.opened.using(id) as held:
                return graph(held.state, infer=True)

        return self._jobs.ask(("inferred", id, self.opened.stamp(id)), work)

    # --- two of them ----------------------------------------------------------------------------

    def diff(self, asked: Parameters) -> Job:
        from tensorkeep.viewer.comparing import compare

        a, b = asked.text("a"), asked.text("b")
        asked.finish()
        with self.opened.using(a), self.opened.using(b):
            pass

        def work(report: ProgressReport) -> Any:
            with self.opened.using(a) as left, self.opened.using(b) as right:
                return compare(left.state, right.state, report)

        key = ("diff", a, self.opened.stamp(a), b, self.opened.stamp(b))
        return self._jobs.ask(key, work)

    def histograms(self, asked: Parameters) -> Any:
        from tensorkeep.viewer.comparing import overlay

        a, b = asked.text("a"), asked.text("b")
        ia, ib = asked.integer("ia"), asked.integer("ib")
        asked.finish()
        with self.opened.using(a) as left, self.opened.using(b) as right:
            return overlay(left.tensor(ia), right.tensor(ib))

    # --- runs -----------------------------------------------------------------------------------

    def run(self, asked: Parameters, id: str) -> Run:
        from tensorkeep.viewer import runs

        asked.finish()
        return runs.run(self.opened.run(id))

    def verify(self, asked: Parameters, id: str) -> Job:
        from tensorkeep.viewer import runs

        step = asked.integer("step", high=10**18 - 1)
        asked.finish()
        target = self.opened.run(id)
        key = ("verify", id, step)
        work = partial(runs.verify, target, step)
        return self._jobs.ask(key, work, kept=_KEPT)

    def course(self, asked: Parameters, id: str) -> Job:
        from tensorkeep.viewer import runs

        exact = asked.text("exact", "0", ("0", "1")) == "1"
        asked.finish()
        target = self.opened.run(id)
        key = ("course", id, exact)
        return self._jobs.ask(
            key, lambda report: runs.course(target, exact=exact, report=report), kept=_KEPT
        )


def _slice(asked: Parameters) -> tuple[Any, ...]:
    return asked.integers("axes", 2), asked.integers("at"), asked.range("rows"), asked.range("cols")


_ID = r"([0-9]+(?:(?:@|%40)[0-9]+)?)"
_ROUTES: list[tuple[re.Pattern[str], Callable[..., Any]]] = [
    (re.compile(pattern, re.ASCII), method)
    for pattern, method in (
        (r"things", Answering.things),
        (rf"things/{_ID}", Answering.thing),
        (rf"things/{_ID}/tensors", Answering.tensors),
        (rf"things/{_ID}/metadata", Answering.metadata),
        (rf"things/{_ID}/statistics", Answering.statistics),
        (rf"things/{_ID}/exact", Answering.exact),
        (rf"things/{_ID}/tensors/([0-9]{{1,9}})/window", Answering.window),
        (rf"things/{_ID}/tensors/([0-9]{{1,9}})/values", Answering.values),
        (rf"things/{_ID}/tensors/([0-9]{{1,9}})/tiles", Answering.tiles),
        (rf"things/{_ID}/graph", Answering.graph),
        (rf"things/{_ID}/graph/inferred", Answering.inferred),
        (r"diff", Answering.diff),
        (r"diff/histograms", Answering.histograms),
        (rf"runs/{_ID}", Answering.run),
        (rf"runs/{_ID}/verify", Answering.verify),
        (rf"runs/{_ID}/course", Answering.course),
    )
]
