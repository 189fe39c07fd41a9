"""A reader for what `torch.save` writes that imports and runs nothing of it.

A pickle is a program: "take this name, call it with that". This machine resolves a
short list of names to functions of its own, and every other name to a placeholder class
that swallows whatever is done with it and remembers the name.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from vtrlib import check

__all__ = ["Foreign", "foreign_names", "read"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class Foreign:
    """Stands for an object of an unknown class; takes everything and does nothing.

    Attributes:
        origin: "module.name" of the class or function that the pickle names.
    """

    origin = "?"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.held: list[Any] = [*args, *kwargs.values()]

    def __setstate__(self, state: Any) -> None:
        self.held = [*getattr(self, "held", []), state]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.held += [key, value]

    def append(self, value: Any) -> None:
        self.held.append(value)

    def extend(self, values: Any) -> None:
        self.held += [*values]

    add, update = append, append


def foreign_names(value: Any, where: str) -> list[str]:
    """ "where: module.name" of every placeholder in a value of containers, once."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    rest = [value]
    while rest:
        one = rest.pop()
        if id(one) in seen:  # a pickle may hold itself
            continue
        seen.add(id(one))
        if isinstance(one, Foreign) or (
            isinstance(one, type) and issubclass(one, Foreign)
        ):
            found[f"{where}: {one.origin}"] = None
            rest += vars(one).get("held", [])
        elif isinstance(one, Mapping):
            rest += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            rest += one
    return list(found)


def read(path: Path) -> Any:
    """What `torch.save` wrote to a file; tensors on the CPU, unknown objects as
    `Foreign`.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, none of torch's, or
            names the standard library.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there. Expected a checkpoint that torch.save wrote."
        )
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except (
        Exception
    ) as error:  # whatever a damaged or hostile pickle makes the machine stumble over
        raise ValueError(
            f"{path}: found no checkpoint that can be read ({type(error).__name__}: {error}). Expected what torch.save "
            "writes; download it again."
        ) from error


class _RefusedError(Exception):
    """A name that no checkpoint has a use for."""


class _Machine(pickle.Unpickler):
    """Resolves names to functions of this module, and storages by `load`."""

    def __init__(
        self, stream: BinaryIO | io.BytesIO, load: Callable[[Any], Tensor]
    ) -> None:
        super().__init__(stream, encoding="latin1")
        self._load = load
        self._made: dict[str, type[Foreign]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f"{module}.{name}")
        if known is not None:
            return known
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top == "__builtin__":
            raise _RefusedError(
                f"found the name {module}.{name}, expected tensors and plain containers. It was not imported, let "
                "alone run. Do not load this file with torch.load(weights_only=False)."
            )
        origin = f"{module}.{name}"
        if origin not in self._made:
            self._made[origin] = type("Foreign", (Foreign,), {"origin": origin})
        return self._made[origin]

    def persistent_load(self, pid: Any) -> Tensor:
        return self._load(pid)


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [
            name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"
        ]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} files data.pkl in it, not one")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if (
            order in archive.namelist()
            and archive.read(order).decode().strip() != sys.byteorder
        ):
            raise ValueError("written on a machine with another byte order")
        storages: dict[str, Tensor] = {}

        def load(pid: Any) -> Tensor:
            _, kind, key, _, size = pid
            if key not in storages:
                storages[key] = _flat(archive.read(f"{folder}data/{key}"), kind, size)
            return storages[key]

        return _Machine(io.BytesIO(archive.read(pickles[0])), load).load()


def _read_legacy(path: Path) -> Any:
    storages: dict[str, tuple[Tensor, Any]] = {}
    room = path.stat().st_size

    def load(pid: Any) -> Tensor:
        _, kind, key, _, size, view = pid
        if view is not None:
            raise ValueError("a storage that is a view of another")
        if key not in storages:
            if not 0 <= size * kind.itemsize <= room:
                raise ValueError(
                    f"a storage of {size} numbers in a file of {room} bytes"
                )
            storages[key] = torch.empty(size, dtype=kind), kind
        return storages[key][0]

    with path.open("rb") as stream:
        if _Machine(stream, load).load() != _LEGACY_MAGIC:
            raise ValueError("not torch's magic number")
        _Machine(stream, load).load()  # version of the protocol
        if _Machine(stream, load).load().get("little_endian", True) != (
            sys.byteorder == "little"
        ):
            raise ValueError("written on a machine with another byte order")
        content = _Machine(stream, load).load()
        for key in _Machine(stream, load).load():  # storages follow, in this order
            tensor, kind = storages[key]
            (size,) = struct.unpack("<q", stream.read(8))
            tensor.copy_(_flat(stream.read(size * kind.itemsize), kind, len(tensor)))
    return content


def _flat(content: bytes, kind: torch.dtype, size: int) -> Tensor:
    if not isinstance(kind, torch.dtype) or len(content) != size * kind.itemsize:
        raise ValueError(
            f"a storage of {len(content)} bytes, not {size} numbers of {kind}"
        )
    return (
        torch.frombuffer(bytearray(content), dtype=kind)
        if size
        else torch.empty(0, dtype=kind)
    )


def _tensor(
    storage: Tensor,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: Any,
) -> Tensor:
    """`torch._utils._rebuild_tensor_v2` without hooks; torch refuses what reaches
    beyond the storage."""
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _scalar(dtype: _NumPyType, content: Any = None) -> int | float | bool:
    """`numpy.…multiarray.scalar` of the plain kinds."""
    raw = content.encode("latin1") if isinstance(content, str) else content
    value: int | float | bool = struct.unpack(dtype.order + _NUMPY[dtype.code], raw)[0]
    return value


class _NumPyType:
    """`numpy.dtype` as far as a scalar needs it."""

    def __init__(self, code: str, *_: Any) -> None:
        check.one_of("numpy.dtype", code, _NUMPY)
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")


_NUMPY = {
    "f8": "d",
    "f4": "f",
    "f2": "e",
    "i8": "q",
    "i4": "i",
    "i2": "h",
    "i1": "b",
    "u1": "B",
    "b1": "?",
}
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # how the older protocols hold bytes
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "numpy.dtype": _NumPyType,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"{module}.{name}": kind for module in ("builtins", "__builtin__") for name, kind in
       (("set", set), ("frozenset", frozenset), ("list", list), ("dict", dict), ("tuple", tuple), ("int", int),
        ("float", float), ("bool", bool), ("str", str), ("complex", complex), ("bytes", lambda: b""))},
}  # fmt: skip
