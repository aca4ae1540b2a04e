"""caffe2.python.core, as far as scripts that load and save use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any, ClassVar

from tensorkeep.caffe2.compat import caffe2_pb2
from tensorkeep.caffe2.compat.proto import Proto
from tensorkeep.caffe2.operator import OPERATORS, create_operator
from tensorkeep.errors import ArgumentError, MissingError

_SEPARATOR = "/"
_scopes = local()


class DataType:
    """The numbers of element types."""

    UNDEFINED, FLOAT, INT32, BYTE, STRING, BOOL = range(6)
    UINT8, INT8, UINT16, INT16, INT64 = range(6, 11)
    FLOAT16, DOUBLE, ZERO_COLLISION_HASH, REBATCHING_BUFFER = range(12, 16)


def GlobalInit(arguments: Sequence[str]) -> None:
    """Do nothing: there is nothing to set up."""


def IsOperator(op_type: str) -> bool:
    """Tell whether operators of a type run here."""
    return op_type in OPERATORS


def DeviceOption(
    device_type: int,
    device_id: int = 0,
    random_seed: int | None = None,
    node_name: str | None = None,
    numa_node_id: int | None = None,
    extra_info: Iterable[str] | None = None,
) -> caffe2_pb2.DeviceOption:
    """Describe a device."""
    option = caffe2_pb2.DeviceOption(device_type=device_type, device_id=device_id)
    for name, value in (
        ("node_name", node_name),
        ("random_seed", random_seed),
        ("numa_node_id", numa_node_id),
    ):
        if value is not None:
            setattr(option, name, value)
    option.extra_info.extend(extra_info or ())
    return option


def CurrentNameScope() -> str:
    """Give what is put before names, the separator included."""
    return getattr(_scopes, "name", "")


def CurrentDeviceScope() -> caffe2_pb2.DeviceOption | None:
    """Give the device of operators that are given none."""
    return getattr(_scopes, "device", None)


@contextmanager
def NameScope(prefix: str, reset: bool = False) -> Iterator[None]:
    """Put a prefix before the names of blobs, behind those of the scopes around."""
    outer = CurrentNameScope()
    inner = prefix + _SEPARATOR if prefix else ""
    _scopes.name = inner if reset else outer + inner
    try:
        yield
    finally:
        _scopes.name = outer


@contextmanager
def DeviceScope(
    scope: caffe2_pb2.DeviceOption | None, node_name: str | None = None
) -> Iterator[None]:
    """Give operators a device where they are given none."""
    outer = CurrentDeviceScope()
    inner = caffe2_pb2.DeviceOption()
    if scope is not None:
        inner.CopyFrom(scope)
    if node_name is not None:
        inner.node_name = node_name
    if outer is not None:
        if outer.HasField("node_name") and not inner.HasField("node_name"):
            inner.node_name = outer.node_name
        inner.extra_info.extend(outer.extra_info)
    inner.extra_info.sort()
    _scopes.device = inner
    try:
        yield
    finally:
        _scopes.device = outer


def ScopedName(name: str | bytes) -> str:
    """Put the prefix of the current scope before a name."""
    return CurrentNameScope() + (name.decode() if isinstance(name, bytes) else name)


class BlobReference:
    """The name of a blob, and the net that writes it."""

    def __init__(self, name: str | bytes | BlobReference, net: Net | None = None) -> None:
        self._name = name.decode() if isinstance(name, bytes) else str(name)
        self._from_net = net

    def Net(self) -> Net | None:
        """Give the net that writes it."""
        return self._from_net

    def GetNameScope(self) -> str:
        """Give the scopes in the name."""
        return self._name[: self._name.rfind(_SEPARATOR) + 1]

    def GetUnscopedName(self) -> str:
        """Give the name without scopes."""
        return self._name[self._name.rfind(_SEPARATOR) + 1 :]

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f'BlobReference("{self._name}")'

    def __hash__(self) -> int:
        return hash(self._name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bytes):
            other = other.decode("utf-8", "surrogateescape")
        return isinstance(other, str | BlobReference) and self._name == str(other)

    def __add__(self, other: str) -> BlobReference:
        return BlobReference(self._name + other, self._from_net)

    def __radd__(self, other: str) -> BlobReference:
        return BlobReference(other + self._name, self._from_net)

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        net = self.__dict__.get("_from_net")
        if op_type.startswith("__") or net is None:
            raise AttributeError(f"a blob without a net has no attribute {op_type!r}")
        operator: Callable[..., Any] = getattr(net, op_type)

        def create(inputs: Any = (), *args: Any, **kwargs: Any) -> Any:
            more = [inputs] if isinstance(inputs, str | BlobReference) else list(inputs)
            return operator([self, *more], *args, **kwargs)

        return create


def ScopedBlobReference(name: str | bytes, net: Net | None = None) -> BlobReference:
    """Name a blob within the current scope."""
    return BlobReference(ScopedName(name), net)


def CreateOperator(
    operator_type: str,
    inputs: Any,
    outputs: Any,
    name: str = "",
    control_input: Any = None,
    device_option: caffe2_pb2.DeviceOption | None = None,
    arg: Iterable[caffe2_pb2.Argument] | None = None,
    engine: str | None = None,
    debug_info: str | None = None,
    **kwargs: Any,
) -> caffe2_pb2.OperatorDef:
    """Describe an operator; names given as text are put in the current scope."""
    operator = caffe2_pb2.OperatorDef(type=operator_type, name=name)
    operator.input.extend(_names(inputs))
    operator.output.extend(_names(outputs))
    operator.control_input.extend(_names(control_input or []))
    device = device_option or CurrentDeviceScope()
    if device is not None:
        operator.device_option.CopyFrom(device)
    seed = kwargs.pop("random_seed", None)
    if seed is not None:
        operator.device_option.random_seed = seed
    if engine is not None:
        operator.engine = engine
    if debug_info is not None:
        operator.debug_info = debug_info
    operator.arg.extend(arg or [])
    given = {key: _argument_value(value) for key, value in kwargs.items()}
    for argument in create_operator(operator_type, **given).arg:
        operator.arg.append(caffe2_pb2.Argument.of(argument))
    return operator


def _argument_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_argument_value(item) for item in value]
    if isinstance(value, Net):
        value = value.Proto()
    return value.message if isinstance(value, Proto) else value


def _references(blobs: Any, net: Net | None = None) -> list[BlobReference]:
    """Give names, in the current scope, and references as references."""
    if isinstance(blobs, str | bytes | BlobReference):
        blobs = [blobs]
    if not isinstance(blobs, list | tuple):
        raise ArgumentError(f"names of blobs are needed, not {type(blobs).__name__}")
    found = []
    for blob in blobs:
        if not isinstance(blob, str | bytes | BlobReference):
            raise ArgumentError(f"the name of a blob is needed, not {type(blob).__name__}")
        found.append(blob if isinstance(blob, BlobReference) else ScopedBlobReference(blob, net))
    return found


def _names(blobs: Any) -> list[str]:
    return [str(blob) for blob in _references(blobs)]


class Net:
    """A net that operators are added to: `net.GivenTensorFill([], "w", shape=..., values=...)`."""

    _used: ClassVar[set[str]] = set()

    def __init__(self, name_or_proto: str | caffe2_pb2.NetDef) -> None:
        self._net = caffe2_pb2.NetDef()
        if isinstance(name_or_proto, caffe2_pb2.NetDef):
            self._net.CopyFrom(name_or_proto)
        name = self._net.name if isinstance(name_or_proto, caffe2_pb2.NetDef) else name_or_proto
        self._net.name = self._unused(name)
        self._next = 0
        self._numbers: dict[str, int] = {}  # which a stem of a name tries next
        self._defined: set[str] = set()  # as far as the operators and inputs were looked at
        self._seen = (0, 0)

    @classmethod
    def _unused(cls, name: str) -> str:
        unused, index = name, 1
        while unused in cls._used:
            unused, index = f"{name}_{index}", index + 1
        cls._used.add(unused)
        return unused

    def Proto(self) -> caffe2_pb2.NetDef:
        """Give the NetDef itself."""
        return self._net

    def Name(self) -> str:
        """Give the name of the net."""
        return str(self._net.name)

    def __str__(self) -> str:
        return self.Name()

    @property
    def external_inputs(self) -> list[BlobReference]:
        """The declared inputs."""
        return [BlobReference(name) for name in self._net.external_input]

    @property
    def external_outputs(self) -> list[BlobReference]:
        """The declared outputs."""
        return [BlobReference(name) for name in self._net.external_output]

    def AddExternalInput(self, *inputs: str | BlobReference) -> Any:
        """Declare inputs."""
        names = [str(name) for name in inputs]
        for index, name in enumerate(names):
            if name in self._net.external_input or name in names[:index]:
                raise ArgumentError(f"the net has an input {name!r} already", where=self.Name())
        self._net.external_input.extend(names)
        references = [BlobReference(name) for name in names]
        return references[0] if len(references) == 1 else references

    AddExternalInputs = AddExternalInput

    def AddExternalOutput(self, *outputs: str | BlobReference) -> None:
        """Declare outputs."""
        for output in outputs:
            if not self.BlobIsDefined(output):
                raise ArgumentError(f"nothing in the net writes {output!r}", where=self.Name())
        self._net.external_output.extend(str(output) for output in outputs)

    AddExternalOutputs = AddExternalOutput

    def AddArgument(self, name: str, value: Any) -> None:
        """Add an argument to the net."""
        made = create_operator("", **{name: _argument_value(value)})
        self._net.arg.extend(caffe2_pb2.Argument.of(argument) for argument in made.arg)

    def AppendNet(self, net: Net) -> Net:
        """Add the operators, inputs and outputs of another net."""
        own, other = self._net, net.Proto()
        known = {*own.external_input, *(name for op in own.op for name in op.output)}
        own.external_input.extend(name for name in other.external_input if name not in known)
        own.external_output.extend(
            [name for name in other.external_output if name not in own.external_output]
        )
        own.op.extend(other.op)
        return self

    def BlobIsDefined(self, blob: str | BlobReference) -> bool:
        """Tell whether the net writes a blob, or declares it as an input."""
        inputs, operators = self._net.external_input, self._net.op
        if self._seen != (len(inputs), len(operators)):
            before = self._seen
            if len(inputs) < before[0] or len(operators) < before[1]:
                before = (0, 0)
                self._defined.clear()
            self._defined.update(inputs[before[0] :])
            for operator in operators[before[1] :]:
                self._defined.update(operator.output)
            self._seen = (len(inputs), len(operators))
        return str(blob) in self._defined

    def NextName(self, prefix: str | None = None, output_id: int | None = None) -> str:
        """Make up the name of an output."""
        if prefix is None:
            self._next += 1
            return f"{self.Name()}_blob_{self._next - 1}"
        number = "" if output_id is None else f":{output_id}"
        start = f"{self.Name()}/{prefix}"
        stem = ScopedName(start) + number
        index = self._numbers.get(stem, 1)
        name = start + number if index == 1 else f"{start}_{index}{number}"
        while self.BlobIsDefined(ScopedName(name)):
            index += 1
            name = f"{start}_{index}{number}"
        self._numbers[stem] = index
        return name

    def Clone(self, name: str, blob_remap: Mapping[str, str] | None = None) -> Net:
        """Make a net of the same operators, whose blobs are renamed as `blob_remap` says."""
        proto = caffe2_pb2.NetDef()
        proto.CopyFrom(self._net)
        proto.name = name
        renamed = {str(key): str(value) for key, value in (blob_remap or {}).items()}
        lists = [proto.external_input, proto.external_output]
        lists += [names for op in proto.op for names in (op.input, op.output)]
        for names in lists:
            names[:] = [renamed.get(one, one) for one in names]
        return Net(proto)

    def GetBlobRef(self, blob_name: str | BlobReference) -> BlobReference:
        """Give the reference to a blob that the net writes or declares as an input."""
        if not self.BlobIsDefined(blob_name):
            raise MissingError(f"nothing in the net writes {str(blob_name)!r}", where=self.Name())
        return BlobReference(str(blob_name), self)

    def UsedBlobNames(self) -> set[str]:
        """Give the names of all blobs of the net."""
        net = self._net
        used = {*net.external_input, *net.external_output}
        return used.union(*([*op.input, *op.output] for op in net.op))

    def set_rand_seed(
        self, seed: int = 100, sequence_seed: bool = True, seed_on_op_def: bool = False
    ) -> None:
        """Have the first operator draw with a seed, the second with the next, and so on."""
        if seed_on_op_def:
            raise ArgumentError("a seed of the operator's text differs in each run", where="Net")
        for index, operator in enumerate(self._net.op):
            operator.device_option.random_seed = seed + index if sequence_seed else seed

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        if op_type not in OPERATORS:
            known = ", ".join(sorted(OPERATORS))
            raise AttributeError(f"{op_type} is no operator that runs here; these do: {known}")

        def add(inputs: Any = (), outputs: Any = None, **kwargs: Any) -> Any:
            return self._add(op_type, inputs, outputs, **kwargs)

        return add

    def _add(self, op_type: str, inputs: Any, outputs: Any, **kwargs: Any) -> Any:
        for blob in _references(inputs):
            if not self.BlobIsDefined(blob):
                self.AddExternalInput(blob)
        if outputs is None:
            outputs = self.NextName(op_type)
        elif isinstance(outputs, int):
            outputs = [self.NextName(op_type, index) for index in range(outputs)]
        operator = CreateOperator(
            op_type, _references(inputs), _references(outputs, self), **kwargs
        )
        self._net.op.append(operator)
        made = tuple(BlobReference(name, self) for name in operator.output)
        return made[0] if len(made) == 1 else made or None


def missing(module: str, name: str, instead: Mapping[str, str]) -> AttributeError:
    """Say that a module has no such name, and what to use instead."""
    cure = instead.get(name, "The names that load, save and fill are here.")
    return AttributeError(f"{module} has no {name!r}. {cure}")


_INSTEAD = {
    "Plan": "Run its nets in order with workspace.RunNet.",
    "ExecutionStep": "Run its nets in order with workspace.RunNet.",
    "execution_step": "Run its nets in order with workspace.RunNet.",
    "InferShapesAndTypes": "Run the net, and ask workspace.FetchBlob(name).shape.",
}


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _INSTEAD)
