"""The tensors in a layer's output: one, or several in a tuple, list, mapping, named tuple or dataclass.

One of several is named by brackets after the layer's name: `sae[1]` in a tuple, `sae[codes]` in a mapping, a named
tuple or a dataclass, and `lstm[1][0]` where one lies in another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tasks.dissection.errors import LayerError

#: Data types of floats that are computed with everywhere.
DATA_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Names of items that a message lists.
SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A tensor of floats in a layer's output."""

    #: Brackets that choose it, such as `[1][codes]`; empty where it is the output itself.
    name: str
    #: Other brackets that do: a field of a named tuple has a number too, and the last item is `[-1]`.
    aliases: tuple[str, ...]
    tensor: Tensor


def items(output: object) -> list[Item]:
    """The tensors of floats in an output, in its order."""
    if is_readable(output):
        return [Item("", (), output)]
    return [
        Item(
            names[0] + inside.name,
            tuple(name + rest for name in names for rest in (inside.name, *inside.aliases))[1:],
            inside.tensor,
        )
        for names, value in _members(output)
        for inside in items(value)
    ]


def is_readable(output: object) -> TypeGuard[Tensor]:
    """True for a tensor of floats with a number at every place: neither sparse nor nested."""
    return (
        isinstance(output, Tensor)
        and output.dtype in DATA_TYPES
        and not output.is_nested
        and output.layout == torch.strided
    )


def _members(output: object) -> Iterator[tuple[tuple[str, ...], object]]:
    """What an output is made of: the brackets that choose a part, the usual ones first, and the part."""
    if isinstance(output, PackedSequence):
        return  # its rows are steps of sequences in an order of their own, not images
    if isinstance(output, Mapping):
        times = Counter(map(str, output))
        numbered = is_dataclass(output)  # the outputs of transformers
        for number, (key, value) in enumerate(output.items()):
            name = str(key) if times[str(key)] == 1 else repr(key)
            yield (f"[{name}]", *((f"[{number}]",) if numbered else ())), value
    elif isinstance(output, (tuple, list)):
        named = getattr(output, "_fields", None)
        for number, value in enumerate(output):
            positions = f"[{number}]", f"[{number - len(output)}]"
            yield (f"[{named[number]}]", *positions) if named else positions, value
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield (f"[{field.name}]",), getattr(output, field.name, None)


def tensor_of(output: object, name: str, item: str) -> Tensor:
    """The tensor of floats that the layer `name` stands for: the `item` of the output of its module.

    Without an item it is the output itself, else the first thing in a tuple or list (attention gives two), else the
    only tensor of floats. Raises `LayerError` that says what the module gave instead, and which items there are.
    """
    if not item and is_readable(output):
        return output
    found = items(output)
    chosen = next((one.tensor for one in found if one.name == item), None) if item else first(output, found)
    if chosen is None:
        raise LayerError(_refusal(output, name.removesuffix(item), item, found))
    return chosen


def first(output: object, found: list[Item]) -> Tensor | None:
    """The tensor that a layer's name alone stands for, of those `found` in its output; None where none does."""
    tensor = found[0].tensor if found else None
    is_at_start = isinstance(output, (tuple, list)) and bool(output) and output[0] is tensor
    return tensor if is_at_start or len(found) == 1 else None


def module_name(name: str, modules: Container[str]) -> str:
    """The name of the module in a layer's name, which may end with the brackets of an item."""
    module = name
    while module not in modules and "[" in module:
        module = module.rpartition("[")[0]
    return module if module in modules else name


def listed(names: list[str]) -> str:
    """The first names, and how many there are more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _refusal(output: object, module: str, item: str, found: list[Item]) -> str:
    names = [module + one.name for one in found]
    if item:
        there = f"its output has {listed(names)}" if found else f"it gives {_described(output)}"
        return f"Layer {module + item!r} is not there in this forward pass: {there}."
    if found:
        return f"Layer {module!r} gives {len(found)} tensors of floats ({listed(names)}), and none comes first."
    return (
        f"Layer {module!r} gives {_with_beginning(output)}, from which no activations can be read. "
        "Choose a layer inside or after it whose output is a tensor of floats."
    )


def _with_beginning(output: object) -> str:
    if isinstance(output, (tuple, list)) and output and not isinstance(output, PackedSequence):
        return f"{type(output).__name__} that begins with {_described(output[0])}"
    return _described(output)


def _described(output: object) -> str:
    kind = type(output).__name__
    if isinstance(output, Tensor):
        form = "nested " if output.is_nested else "" if output.layout == torch.strided else "sparse "
        return f"{form}{kind} of {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, Mapping):
        return f"{kind} of {', '.join(map(str, list(output)[:SHOWN])) or 'nothing'}"
    return kind
