"""Reads the pickles of EDM2 as data: a machine for their opcodes that never imports or calls anything.

A pickle is a program. EDM2's programs import classes, rebuild tensors and execute the source text that travels with
each module. Here a global that EDM2's files are known to use becomes its name, a call becomes a `Call` record, and
every other global, opcode or persistent id is refused by name. What is left is a tree of plain values and records.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_pipeline.errors import UserError

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
MODULE_DICT = "torch.nn.modules.container.ModuleDict"
PARAMETER = "torch._utils._rebuild_parameter"
TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
STORED = "persistent id"
MAPPINGS = ("dnnlib.util.EasyDict", "collections.OrderedDict")
ARRAYS = tuple(
    f"{core}.{name}"
    for core in ("numpy.core", "numpy._core")  # before NumPy 2 and since
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
)
ALLOWED = frozenset(
    (PERSISTENT, MODULE_DICT, PARAMETER, TENSOR, STORAGE, *MAPPINGS, *ARRAYS, "numpy.ndarray", "numpy.dtype")
)

# Opcodes that push their own argument, and those that push a fixed value.
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
LITERALS = frozenset((*NUMBERS, *TEXTS))
FIXED: dict[str, Any] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
FIXED |= {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


class EDM2Error(UserError):
    """A file that cannot be imported; the message names the file, what is wrong with it and what to do."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function that a pickle refers to."""

    name: str


@dataclass(eq=False)
class Call:
    """What a pickle asks to have made: `name(*args)`, to which `state` is then given. Nothing is called."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


class Stream:
    """A binary stream of known length that refuses to read beyond its end, before it makes room for what is asked."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._stream, self._length = stream, length

    def read(self, count: int) -> bytes:
        if count > self._length - self.tell():
            raise EOFError
        return self._stream.read(count)

    def readline(self) -> bytes:
        return self._stream.readline()

    def tell(self) -> int:
        return self._stream.tell()


class _Machine:
    """The stack and memo of one pickle."""

    def __init__(self, allowed: frozenset[str], persistent: bool) -> None:
        self._allowed, self._persistent = allowed, persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each open mark
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode."""
        if opcode in LITERALS:
            self._stack.append(argument)
        elif opcode in FIXED:
            self._stack.append(FIXED[opcode]())
        elif not (self._build_container(opcode) or self._remember(opcode, argument) or self._refer(opcode, argument)):
            raise EDM2Error(f"holds opcode {opcode}, which no EDM2 snapshot has: the file is damaged or foreign")

    def result(self) -> Any:
        """The value that the pickle stands for."""
        (value,) = self._stack
        return value

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise IndexError("the stack is empty")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _build_container(self, opcode: str) -> bool:
        match opcode:
            case "MARK":
                self._below.append(self._stack)
                self._stack = []
            case "TUPLE":
                items = self._marked()
                self._stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if opcode == "APPEND" else self._marked()
                _of(self._stack[-1], list).extend(items)
            case "ADDITEMS":
                items = self._marked()
                _of(self._stack[-1], set).update(_key(item) for item in items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if opcode == "SETITEM" else self._marked()
                mapping = _of(self._stack[-1], dict)
                mapping.update((_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))
            case _:
                return False
        return True

    def _remember(self, opcode: str, argument: Any) -> bool:
        match opcode:
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case _:
                return opcode in ("PROTO", "FRAME", "STOP")
        return True

    def _refer(self, opcode: str, argument: Any) -> bool:
        match opcode:
            case "GLOBAL":
                self._stack.append(self._global(*argument.split(" ", 1)))
            case "INST":
                self._global(*argument.split(" ", 1))
                return False
            case "STACK_GLOBAL":
                module, name = self._pop(2)
                self._stack.append(self._global(_of(module, str), _of(name, str)))
            case "REDUCE" | "NEWOBJ":
                function, args = self._pop(2)
                self._stack.append(_call(_of(function, Global).name, _of(args, tuple)))
            case "BUILD":
                (state,) = self._pop(1)
                _of(self._stack[-1], Call).state = state
            case "BINPERSID" if self._persistent:
                self._stack.append(Call(STORED, tuple(self._pop(1))))
            case _:
                return False
        return True

    def _global(self, module: str, name: str) -> Global:
        full = f"{module}.{name}"
        if full not in self._allowed:
            raise EDM2Error(
                f"refused: it wants to use {full[:200]}, which EDM2's snapshots do not need. Nothing was run. "
                "Do not open this file with other tools; get it again from its publisher"
            )
        return Global(full)


def _of(value: Any, kind: type) -> Any:
    """The value itself; TypeError unless it is of exactly that type."""
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _key(value: Any) -> str | int:
    """A key of a mapping: plain, so that hashing it is quick and runs nothing."""
    if type(value) not in (str, int):
        raise TypeError(f"a {type(value).__name__} as a key")
    return value


def _call(name: str, args: tuple[Any, ...]) -> Any:
    if name not in MAPPINGS:
        return Call(name, args)
    if args:
        raise TypeError(f"{name} with arguments")
    return {}


def run(stream: Stream, allowed: frozenset[str], persistent: bool = False) -> Any:
    """The value of the pickle that starts where the stream stands, of which `allowed` are the globals.

    Raises EDM2Error (without the file's name) that says what is refused or damaged.
    """
    machine = _Machine(allowed, persistent)
    at = stream.tell()
    try:
        for opcode, argument, position in pickletools.genops(stream):  # type: ignore[arg-type]
            at = position or 0
            machine.step(opcode.name, argument)
        return machine.result()
    except EOFError:
        raise EDM2Error("ends early: the file is truncated or damaged; download it again") from None
    except (ValueError, TypeError, LookupError) as error:
        raise EDM2Error(f"is damaged or no pickle of EDM2 (at byte {at}: {error}); download it again") from None


def read_pickle(stream: BinaryIO, length: int) -> Any:
    """The tree in an EDM2 snapshot: plain values, and `Call` records where it wants objects.

    Bytes of tensors are held once, as they are stored. Raises EDM2Error (without the file's name).
    """
    return run(Stream(stream, length), ALLOWED)


def module_state(value: Any) -> dict[str, Any] | None:
    """The attributes of a module (a persistent object of EDM2, or a ModuleDict); None for anything else."""
    if not isinstance(value, Call):
        return None
    state = value.state
    if value.name == PERSISTENT and len(value.args) == 1 and isinstance(value.args[0], dict):
        state = value.args[0].get("state")
    return state if value.name in (PERSISTENT, MODULE_DICT) and isinstance(state, dict) else None
