"""Parts of the description of an object: values, attributes, and the code of functions."""

from __future__ import annotations

import dis
import hashlib
import os
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePath
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Lists in lists that are looked through for plain values.
MAX_LEVELS = 6


def tensor_digest(tensor: Tensor) -> str:
    """Type, shape and SHA-256 of the values of a tensor."""
    if tensor.is_meta:
        return f"{tensor.dtype}, {list(tensor.shape)}, meta"
    plain = tensor.detach().cpu()
    plain = plain.dequantize() if plain.is_quantized else plain.to_dense() if plain.layout != torch.strided else plain
    values = plain.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype}, {list(tensor.shape)}, {hashlib.sha256(values.data).hexdigest()}"


def attributes(value: object) -> dict[str, object]:
    """Attributes of an object, those in slots too."""
    slots = [name for cls in type(value).__mro__ for name in _slots(cls)]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return held | {str(name): of for name, of in vars(value).items()}


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    named = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in named if name not in ("__dict__", "__weakref__"))


def plain_repr(value: Any) -> str:
    """The printed form of None, a number or bytes, of a class derived from them too."""
    if value is None:
        return "None"
    base = next(cls for cls in (bool, int, float, complex, bytes) if isinstance(value, cls))
    return base.__repr__(value)


def plain_key(value: object) -> str:
    """An order of keys that every process finds: keys are numbers, texts and tuples nearly always."""
    if isinstance(value, FunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return f"{type(value).__name__} {value!r}" if is_plain(value) else type(value).__name__


def is_plain(value: object, levels: int = MAX_LEVELS) -> bool:
    """True for numbers and texts, and for lists of these, lists in lists up to some levels."""
    if isinstance(value, tuple | list):
        return levels > 0 and all(is_plain(item, levels - 1) for item in value)
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def is_data(value: object, levels: int = MAX_LEVELS) -> bool:
    """True for values that no code changes as it runs: numbers, texts, tensors and arrays, and lists of these."""
    if isinstance(value, tuple | list):
        return levels > 0 and all(is_data(item, levels - 1) for item in value)
    return value is not None and (is_plain(value) or isinstance(value, Tensor | np.ndarray | np.generic | Enum))


def without_folder(text: str) -> str:
    """A text as it is, or the file's name alone where it is an absolute path: folders differ between machines."""
    if not text.startswith("/") or "\n" in text or "\0" in text:
        return text
    is_folder = os.path.isdir(text)  # noqa: PTH112 - Path.is_dir() raises for texts that are too long for a name
    return "…" if is_folder else f"…/{PurePath(text).name}"


def content(cell: Any) -> object:
    """The value that a function keeps from around it; None where there is none yet."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def global_names(code: CodeType) -> set[str]:
    """Names of the module that a function reads, without those that it sets: they change as it runs."""
    read, written = set(), set()
    for one in _codes(code):
        for instruction in dis.get_instructions(one):
            if instruction.opname.startswith("LOAD_GLOBAL") or instruction.opname.startswith("LOAD_NAME"):
                read.add(str(instruction.argval))
            elif instruction.opname.startswith(("STORE_GLOBAL", "DELETE_GLOBAL")):
                written.add(str(instruction.argval))
    return read - written


def position(code: CodeType) -> str:
    """Line and column of a function's first expression: which of two lambdas in one line it is."""
    places = [(line, column) for line, _, column, _ in code.co_positions() if line and column]
    line, column = min(places, default=(code.co_firstlineno, 0))
    return f"{line}:{column}"


def code_digest(code: CodeType) -> str:
    """SHA-256 of compiled code that has no source file."""
    sha256 = hashlib.sha256()
    for one in _codes(code):
        constants = [repr(constant) for constant in one.co_consts if is_plain(constant)]
        sha256.update(f"{one.co_names} {constants}".encode() + one.co_code)
    return sha256.hexdigest()


def traced_code(module: torch.fx.GraphModule | torch.jit.ScriptModule) -> tuple[str, dict[str, Any]]:
    """The code of a network that was traced or compiled to TorchScript, and the plain values that it uses by name."""
    if isinstance(module, torch.fx.GraphModule):
        return module.code, {}
    inside: Any = module._c
    methods = [inside._get_method(name) for name in inside._method_names()]
    code = "\n".join(method.code for method in methods)
    names = sorted(set(re.findall(r"\w\.(\w+)", code)))
    values = {name: inside.getattr(name) for name in names if inside.hasattr(name)}
    constants = [dict(method.code_with_constants[1]) for method in methods]
    return code, {name: value for name, value in values.items() if is_plain(value)} | {"constants": constants}
