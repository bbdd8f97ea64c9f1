"""The weights of a TorchScript archive (OpenAI's CLIP files are such), read without running anything in it.

`torch.jit.load` is not used: it compiles the archive's code and runs the `__setstate__` of its classes, with
operators that can read and write files. Here the pickle that holds the module tree is read by an unpickler that can
build nothing but tensors and plain containers.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Any

import torch
from torch import Tensor

#: Data types by the names of torch's storages.
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
#: Every module of a TorchScript archive is of a class in this package of its own.
_CLASSES = "__torch__"


def is_torchscript(names: list[str]) -> bool:
    """True for the members of a zip file that `torch.jit.save` wrote."""
    return any(name.endswith("/constants.pkl") for name in names)


def read_torchscript(file: IO[bytes] | str) -> OrderedDict[str, Tensor]:
    """Tensors of an archive by the names of its modules, as its `state_dict()` has them.

    Raises `pickle.UnpicklingError` where the archive holds something else, and errors of `zipfile` and torch where it
    is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        record = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        with archive.open(record) as data:
            module = _Unpickler(data, archive, record.removesuffix("data.pkl")).load()
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError(f"the archive holds {type(module).__name__}, not a module")
    return OrderedDict(_tensors(module))


class _Module:
    """A module of the archive: its attributes by name."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def _tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    attributes = module.attributes if isinstance(module.attributes, dict) else {}
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


class _Unpickler(pickle.Unpickler):
    """Builds modules without code, tensors, and lists of numbers; refuses all else."""

    def __init__(self, data: IO[bytes], archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(data)
        self._archive, self._root, self._storages = archive, root, dict[str, Tensor]()

    def find_class(self, module: str, name: str) -> Any:
        """Stands in for every class and function that the pickle names."""
        if module == _CLASSES or module.startswith(f"{_CLASSES}."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is nothing that weights are made of")
        return allowed

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage, as a tensor of one axis."""
        _, dtype, key, _, num_values = pid
        if key not in self._storages:
            info = self._archive.getinfo(f"{self._root}data/{key}")
            if info.compress_type != zipfile.ZIP_STORED:  # torch compresses none; a small file could become huge
                raise pickle.UnpicklingError(f"the record {info.filename} is compressed")
            data = bytearray(self._archive.read(info))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage) < num_values:
            raise pickle.UnpicklingError(f"the storage {key} has {len(storage)} values, not {num_values}")
        return storage


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    del rest  # whether it takes gradients, and hooks
    return torch.as_strided(storage, size, stride, offset)  # refuses what lies outside the storage


def _itself(value: Any, *rest: Any) -> Any:
    del rest
    return value


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _itself,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "device"): torch.device,
    **{
        ("torch.jit._pickle", name): _itself
        for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
    },
}
