"""What was given to look at: files, runs, and what a program holds in memory.

Each is known by its place among what was given, "0", "1" and so on, and a checkpoint of a run by
its step too, "1@200": an id is never a path, so that nothing else can be asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorkeep import api, frameworks
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    MissingError,
    TensorKeepError,
    UnknownFormatError,
)
from tensorkeep.state import State
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten
from tensorkeep.viewer import steps
from tensorkeep.viewer.answers import Thing
from tensorkeep.viewer.problems import told
from tensorkeep.viewer.targets import Stamp, folder_of, may_be_run, path_of, plain, stamp_of

_MOST = 16  # states that stay open
_ID = re.compile(r"(0|[1-9][0-9]{0,5})(?:@(0|[1-9][0-9]{0,17}))?")
_GONE = "Look at what is open again; the viewer shows only what it was given."


class Held:
    """An open state whose tensors are found by their place, too."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.names: tuple[str, ...] = tuple(state)

    def tensor(self, place: int) -> Tensor:
        """Give a tensor by its place in the listing.

        Raises:
            MissingError: there are not that many.
        """
        if not 0 <= place < len(self.names):
            raise MissingError(
                f"has {len(self.names):,} tensors, and none at {place}", where=self.state.where
            )
        return self.state[self.names[place]]


@dataclass(slots=True)
class _Slot:
    """Room for a state that is open while it is used, and as long as there is room after that."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    held: Held | None = None
    uses: int = 0
    outdated: bool = False


class Opened:
    """All that is looked at; used by several threads.

    Args:
        targets: paths, URLs, Locations, Stores, States, Checkpointers, or nestings of arrays.
        most: how many states stay open while nobody uses them.

    >>> import numpy as np
    >>> opened = Opened([{"w": np.zeros(3)}])
    >>> opened.thing("0").tensors
    1
    >>> with opened.using("0") as held:
    ...     held.tensor(0)
    Tensor(float64, (3,))
    """

    def __init__(self, targets: Sequence[Any], *, most: int = _MOST) -> None:
        if isinstance(targets, str | os.PathLike):
            raise ArgumentError("takes several things to look at", cure="Give them in a list.")
        self._targets = list(targets)
        self._most = most
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._things: dict[str, tuple[Thing, Stamp | None]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._targets)

    # --- what there is --------------------------------------------------------------------------

    def things(self) -> list[Thing]:
        """Describe all that was given, what cannot be opened too; files that changed, anew."""
        return [self.thing(str(place)) for place in range(len(self._targets))]

    def thing(self, id: str) -> Thing:
        """Describe what was given, or a checkpoint of it.

        Raises:
            MissingError: there is no such id.
        """
        self._refresh(id)
        try:
            return self._look(id)
        except Exception as error:
            problem = told(error)
            text = f"{problem.problem.rstrip('.')}. {problem.cure}".strip()
            return Thing(id, *self._names(id), "", problem=text)

    def check(self) -> None:
        """Refuse targets none of which can be opened.

        Raises:
            TensorKeepError: why the first of them cannot.
        """
        first: TensorKeepError | OSError | None = None
        for place in range(len(self._targets)):
            try:
                self._look(str(place))
                return
            except (TensorKeepError, OSError) as error:
                first = first or error
        raise first or ArgumentError("there is nothing to look at", cure="Name a file.")

    def stamp(self, id: str) -> Stamp | None:
        """Give what tells a file from what it becomes later; None of what is no file."""
        return self._things.get(id, (None, None))[1]

    def _refresh(self, id: str) -> None:
        """Forget what is known of a file that has changed, or of a run, which grows."""
        place, step = self._place(id)
        with self._lock:
            known, stamp = self._things.get(id, (None, None))
            is_run = known is not None and known.kind == "run"
            if known is None or not (is_run or stamp != stamp_of(self._targets[place], step)):
                return
            del self._things[id]
            slot = self._slots.pop(id, None)
            if slot is not None:
                slot.outdated = True
        if slot is not None and not slot.uses:
            self._close([slot])

    def _look(self, id: str) -> Thing:
        """Describe a thing as it was when it was opened last."""
        if (known := self._things.get(id)) is not None:
            return known[0]
        place, step = self._place(id)
        stamp = stamp_of(self._targets[place], step)
        if step is None and (run := self._run_at(place)) is not None:
            found = Thing(id, *self._names(id), "run", steps=run)
        else:
            with self._using(id) as held:
                state = held.state
                found = Thing(
                    id,
                    *self._names(id),
                    "state",
                    format=state.format,
                    tensors=len(held.names),
                    nbytes=state.nbytes,
                    dialect=state.dialect,
                )
        self._things[id] = found, stamp
        return found

    def _names(self, id: str) -> tuple[str, str]:
        """Give the name and the path to show."""
        place, step = self._place(id)
        target = self._targets[place]
        path = path_of(target)
        name = re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path or type(target).__name__
        if step is None:
            return name, path
        return f"{name} @ {step}", path

    # --- states ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def using(self, id: str) -> Iterator[Held]:
        """Open a state, or take the one that is open, and keep it open meanwhile.

        Raises:
            MissingError: there is no such id, or what it means is gone.
            TensorKeepError: it cannot be opened.
        """
        place, step = self._place(id)
        if step is None and self._look(id).kind == "run":
            raise ArgumentError(
                "is a run, not a state", where=path_of(self._targets[place]), cure="Name a step."
            )
        with self._using(id) as held:
            yield held

    @contextlib.contextmanager
    def _using(self, id: str) -> Iterator[Held]:
        with self._lock:
            if self._closed:
                raise ClosedError("the viewer has ended")
            slot = self._slots.setdefault(id, _Slot())
            self._slots.move_to_end(id)
            slot.uses += 1
        try:
            with slot.lock:
                if slot.held is None:
                    slot.held = Held(self._open(id))
            yield slot.held
        finally:
            with self._lock:
                slot.uses -= 1
                surplus = self._surplus()
                if slot.outdated and not slot.uses:
                    surplus.append(slot)
            self._close(surplus)

    def _open(self, id: str) -> State:
        place, step = self._place(id)
        target = self._targets[place]
        if step is not None:
            run = self.run(str(place))
            return steps.open_step(run, steps.find(run, step))
        if isinstance(target, State):
            return target.replace(close=None)  # which whoever gave it closes
        if isinstance(target, str | os.PathLike | Location | Store):
            return _whole(target)
        tensors, skeleton = flatten(plain(target), frameworks.reader())
        return State(tensors, skeleton=skeleton, where=type(target).__name__)

    def _surplus(self) -> list[_Slot]:
        """Take out what need not stay open: what failed to open, and what was not used longest."""
        most = 0 if self._closed else self._most
        idle = [id for id, slot in self._slots.items() if not slot.uses]
        empty = [id for id in idle if self._slots[id].held is None]
        more = max(len(self._slots) - len(empty) - most, 0)
        old = [id for id in idle if self._slots[id].held is not None][:more]
        return [self._slots.pop(id) for id in (*empty, *old)]

    def _close(self, slots: list[_Slot]) -> None:
        for slot in slots:
            if slot.held is not None:
                slot.held.state.close()

    def close(self) -> None:
        """Close all states; what is being used is closed by the last who uses it."""
        with self._lock:
            self._closed = True
            surplus = self._surplus()
        self._close(surplus)

    # --- runs -----------------------------------------------------------------------------------

    def run(self, id: str) -> Target:
        """Give the folder of a run.

        Raises:
            MissingError: there is no such id.
            ArgumentError: it is no run.
        """
        place, step = self._place(id)
        if step is not None or self._look(id).kind != "run":
            raise ArgumentError("is no run", where=path_of(self._targets[place]))
        target = self._targets[place]
        return folder_of(target) if isinstance(target, Checkpointer) else target

    def _run_at(self, place: int) -> int | None:
        """Count the checkpoints of a run; None for what is none."""
        target = self._targets[place]
        if isinstance(target, Checkpointer):
            target = folder_of(target)
        elif not may_be_run(target):
            return None
        try:
            count = steps.count(open_folder(target))
        except (TensorKeepError, OSError):
            if isinstance(self._targets[place], Checkpointer):
                raise
            return None  # opening it says why it is not even a state
        return count if count or isinstance(self._targets[place], Checkpointer) else None

    # --- ids ------------------------------------------------------------------------------------

    def _place(self, id: str) -> tuple[int, int | None]:
        """Read an id.

        Raises:
            MissingError: there is no such thing.
        """
        match = _ID.fullmatch(id)
        if match is None or int(match[1]) >= len(self._targets):
            raise MissingError("nothing that is open has this id", cure=_GONE)
        return int(match[1]), None if match[2] is None else int(match[2])


def _whole(target: Target) -> State:
    """Open a file, or a model of Caffe2's with the weights beside its net."""
    try:
        state = api.open(target)
    except UnknownFormatError:
        from tensorkeep.models.opening import open_whole  # which only models need

        return open_whole(target)
    if state.dialect == "caffe2":
        from tensorkeep.models.exchange.caffe2_to_onnx.opening import with_weights

        with contextlib.suppress(TensorKeepError):
            return with_weights(state)
    return state
