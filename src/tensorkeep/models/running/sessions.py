"""Session: a model that was loaded once, to be run many times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.api import ProgressReport
from tensorkeep.errors import ArgumentError, ClosedError, LossError, MissingError, UnsupportedError
from tensorkeep.graph import Value, value_of
from tensorkeep.models.opening import Model, graph_of, opened
from tensorkeep.models.running.batches import Joined, Plan, plan
from tensorkeep.models.running.failures import explain_loading, explain_running
from tensorkeep.models.running.feeding import Fed, look_at, named
from tensorkeep.models.running.feeding import check as check_inputs
from tensorkeep.models.running.handing import LARGE, MOST, ROOT, Handed, hand_over
from tensorkeep.models.running.values import as_value, hand_in, is_plain, take_out
from tensorkeep.optional import require
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State

Inputs = Mapping[str, Any] | State | str | os.PathLike[str] | Any
Configure = Callable[[Any], None]

_FOLDER = "session.model_external_initializers_file_folder_path"
_ENDING = "ExecutionProvider"
_CPU = f"CPU{_ENDING}"
_MOST_THREADS = 1024
_FATAL = 4  # what ONNX Runtime writes to stderr: nothing, since every failure is raised


class Session:
    """A model in ONNX Runtime: `run` applies it to data; made by `session`.

    Attributes:
        inputs: what it takes.
        defaults: inputs that may be left out, since the model has values for them.
        outputs: what it gives.
        providers: where it runs, the first choice first.
        where: names it in messages.
        runtime: ONNX Runtime's own InferenceSession.
    """

    def __init__(self, state: State, runtime: Any, ort: Any) -> None:
        graph = graph_of(state)
        self.inputs = graph.inputs
        required = {value.name for value in self.inputs}
        rows = map(value_of, graph.model.graph.input)
        self.defaults = [value for value in rows if value.name not in required]
        self.outputs = graph.outputs
        self.where = state.where
        self.providers: list[str] = list(runtime.get_providers())
        self.runtime = runtime
        self._ort = ort

    def run(
        self,
        inputs: Inputs,
        outputs: str | Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        cast: bool = False,
        check: bool = True,
        progress: ProgressReport | None = None,
    ) -> dict[str, Any]:
        """Apply the model to data; the arguments are those of `tensorkeep.run`.

        Raises:
            ArgumentError: the inputs are not what the model takes.
            MismatchError: an operator does not work on what it is given.

        >>> from tensorkeep.models.running.examples import doubling
        >>> with session(doubling()) as loaded:
        ...     [loaded.run([n, n + 1])["y"].tolist() for n in range(2)]
        [[0.0, 2.0], [2.0, 4.0]]
        """
        asked = self._asked(outputs)
        names = [value.name for value in asked]
        results: dict[str, Joined] = {}
        for cut, start, stop, given in self._pieces(
            inputs, names, batch_size, cast, check, progress
        ):
            if cut is None or cut.whole:
                return given
            for value in asked:
                if value.name not in results:
                    results[value.name] = Joined(value, cut, self._bound(cut))
                results[value.name].add(given[value.name], start, stop)
        return {name: joined.result for name, joined in results.items()}

    def _pieces(
        self,
        inputs: Inputs,
        names: list[str],
        batch_size: int | None,
        cast: bool,
        check: bool,
        progress: ProgressReport | None,
    ) -> Iterator[tuple[Plan | None, int, int, dict[str, Any]]]:
        """Run piece by piece: gives the plan, the rows of each piece and its outputs."""
        known = [*self.inputs, *self.defaults]
        with _naming(self.where), named(inputs, self.inputs, known) as given:
            looked = {
                v.name: look_at(v, given[v.name], cast=cast) for v in known if v.name in given
            }
            looked |= {v.name: None for v in self.inputs if v.name not in given}  # optional ones
            fed = [each for each in looked.values() if isinstance(each, Fed)]
            cut = None if batch_size is None else plan(fed, batch_size)
            split = frozenset[str]() if cut is None else cut.split
            if check:
                check_inputs(fed, split)
            fixed = {
                name: self._hand_in(each.read() if isinstance(each, Fed) else each)
                for name, each in looked.items()
                if name not in split
            }
            if cut is None:
                yield None, 0, 0, self._call(names, fixed, fed)
                return
            asked = [value for value in self.outputs if value.name in names]
            for start, stop in cut.pieces(uneven=not all(map(cut.is_of_rows, asked))):
                parts = {
                    each.value.name: self._hand_in(cut.take(each, start, stop))
                    for each in fed
                    if each.value.name in split
                }
                results = self._call(names, fixed | parts, fed)
                if progress is not None:
                    progress(stop, cut.rows)
                yield cut, start, stop, results

    def _asked(self, outputs: str | Sequence[str] | None) -> list[Value]:
        if outputs is None:
            return self.outputs
        known = {value.name: value for value in self.outputs}
        wanted = _names(outputs, "outputs")
        if not wanted:
            raise ArgumentError("outputs names none", cure="Leave it out to get all of them.")
        for name in wanted:
            if not isinstance(name, str) or name not in known:
                listed = "; ".join(map(str, self.outputs))
                cure = did_you_mean(str(name), known, 2) or f"It gives {listed}."
                raise MissingError(f"has no output called {name!r}", where=self.where, cure=cure)
        return [known[name] for name in wanted]

    def _bound(self, cut: Plan) -> frozenset[str]:
        axes = (axis for value in self.inputs for axis in value.axes or ())
        return frozenset(axis for axis in axes if isinstance(axis, str) and axis != cut.axis)

    def _hand_in(self, value: Any) -> Any:
        return hand_in(self._ort, value) if isinstance(value, np.ndarray) else value

    def _call(self, names: list[str], feed: dict[str, Any], fed: list[Fed]) -> dict[str, Any]:
        if self.runtime is None:
            raise ClosedError("the session was closed", where=self.where)
        kinds = {v.name: dtypes.DTYPES.get(v.dtype) for v in self.outputs if v.kind == "tensor"}
        try:
            if all(is_plain(kinds.get(name)) for name in names):
                return dict(zip(names, self.runtime.run(names, feed), strict=True))
            return self._call_with_values(names, feed)
        except Exception as error:
            given = ", ".join(f"{each.value.name}: {each}" for each in fed) or "nothing"
            raise explain_running(error, self.where, given) from error

    def _call_with_values(self, names: list[str], feed: dict[str, Any]) -> dict[str, Any]:
        """Run where an output has elements that NumPy has not: all goes through OrtValues."""
        value = self._ort.OrtValue
        feeds = {}
        for name, given in feed.items():
            if not _is_tensor(given):
                raise UnsupportedError(
                    "gives elements that NumPy has not, and takes text, sequences or maps: ONNX "
                    "Runtime's Python library cannot do both at once",
                    where=self.where,
                    cure="Ask for other outputs.",
                )
            feeds[name] = value.ortvalue_from_numpy(given) if type(given) is np.ndarray else given
        found = self.runtime.run_with_ort_values(names, feeds)
        for name, each in zip(names, found, strict=True):
            if not each.is_tensor():
                raise UnsupportedError(
                    f"gives {name!r}, which is no tensor, beside elements that NumPy has not",
                    where=self.where,
                    cure="Ask for one of them at a time.",
                )
        return {name: take_out(each) for name, each in zip(names, found, strict=True)}

    def close(self) -> None:
        """Release the model."""
        self.runtime = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        inside, outside = "; ".join(map(str, self.inputs)), "; ".join(map(str, self.outputs))
        return f"Session({inside} -> {outside})"


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Name the model in errors that were raised where it is not known."""
    try:
        yield
    except (ArgumentError, LossError) as error:
        if not where or error.where == where:
            raise
        full = f"{where}: {error.where}" if error.where else where
        raise type(error)(error.problem, where=full, cure=error.cure) from None


def _names(given: Any, called: str) -> list[Any]:
    """Give one name, or several, as a list.

    Raises:
        ArgumentError: they are neither.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable):
        raise ArgumentError(f"{called} cannot be {given!r}", cure="Give a name or a list of them.")
    return list(given)


def _is_tensor(given: Any) -> bool:
    if isinstance(given, np.ndarray):
        return bool(given.dtype != object)
    return hasattr(given, "data_ptr")


def session(
    model: Model,
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    configure: Configure | None = None,
    large: int = LARGE,
    most: int = MOST,
) -> Session:
    """Load a model into ONNX Runtime, to run it many times.

    Args:
        model: a path, or a State that is a model, edited or built ones included.
        providers: where it runs, first choice first: "cpu", "cuda" or another of ONNX Runtime's.
        threads: how many an operator may use; as many as there are cores otherwise.
        configure: called with ONNX Runtime's SessionOptions before the model is loaded.
        large: the least bytes of a tensor that is handed over apart from the model's message.
        most: the most bytes of that message.

    Raises:
        UnsupportedError: ONNX Runtime cannot run the model.
        MissingError: no such file, or weights that it needs are missing.
        ArgumentError: there is no such provider, or the file holds no graph.
        MissingDependencyError: onnxruntime is not installed.

    >>> from tensorkeep.models.running.examples import doubling
    >>> session(doubling())
    Session(x: float32[N] -> y: float32[N])
    """
    ort = require(
        "onnxruntime", "running a model needs onnxruntime", 'Run pip install "tensorkeep[run]".'
    )
    chosen = _providers(ort, providers)
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MOST_THREADS):
        raise ArgumentError(f"threads cannot be {threads!r}", cure=f"Give 1 to {_MOST_THREADS:,}.")
    with opened(model) as state:

        def options() -> Any:
            made = ort.SessionOptions()
            made.log_severity_level = _FATAL
            if threads is not None:
                made.intra_op_num_threads = threads
            if configure is not None:
                configure(made)
            return made

        runtime = _load(ort, options, chosen, state, large, most)
        lacking = [name for name in chosen if name not in runtime.get_providers()]
        if lacking:
            raise UnsupportedError(
                f"cannot be run by {lacking[0]}, which ONNX Runtime could not start",
                where=state.where,
                cure="Install what it needs, or leave it out.",
            )
        return Session(state, runtime, ort)


def _load(
    ort: Any,
    options: Callable[[], Any],
    providers: list[str],
    state: State,
    large: int,
    most: int,
) -> Any:
    for ranges in (True, False):
        fresh = options()
        with hand_over(state, large=large, most=most, ranges=ranges) as handed:
            try:
                return _start(ort, handed, fresh, providers)
            except Exception as error:
                # Some of its optimizers look for files in the working directory alone.
                if not ranges or "External data path" not in str(error):
                    raise explain_loading(error, state.where) from error
    raise AssertionError("the second try either returns or raises")


def _start(ort: Any, handed: Handed, options: Any, providers: list[str]) -> Any:
    options.add_session_config_entry(_FOLDER, ROOT)
    if handed.arrays:
        values = [as_value(ort, array, number) for array, number in handed.arrays.values()]
        options.add_external_initializers(list(handed.arrays), values)
    return ort.InferenceSession(handed.message, options, providers=providers)


def _providers(ort: Any, wanted: Sequence[str] | None) -> list[str]:
    """Spell providers as ONNX Runtime does.

    Raises:
        ArgumentError: it has none of that name here.
    """
    here: list[str] = ort.get_available_providers()
    by_name = {name.removesuffix(_ENDING).lower(): name for name in here}
    chosen = []
    for name in (_names(wanted, "providers") if wanted is not None else []) or [_CPU]:
        key = str(name).removesuffix(_ENDING).lower()
        if key not in by_name:
            raise ArgumentError(
                f"ONNX Runtime has no provider {name!r} here",
                cure=f"It has {', '.join(sorted(by_name))}.",
            )
        chosen.append(by_name[key])
    return chosen
