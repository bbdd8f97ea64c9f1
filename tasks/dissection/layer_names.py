"""Names of layers as users write them: with indices, globs, and items of what a layer gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from torch import nn

from tasks.dissection.errors import UnknownNameError
from tasks.dissection.outputs import listed

_INDEX = re.compile(r"\[(-?\d+)\]")
_ENDS_WITH_INDEX = re.compile(rf"{_INDEX.pattern}$")
#: The last pair of brackets of a name, and what stands before.
_LAST_BRACKETS = re.compile(r"(?P<before>.+)(?P<brackets>\[[^\[\]]+\])", re.DOTALL)
ANY_DEPTH = "**"
#: Found names that a message shows.
SHOWN = 3


def find(model: nn.Module, known: list[str], items: Mapping[str, str], written: str) -> list[str]:
    """Names of layers for one written name, in the model's order; none where nothing fits.

    `known` are the names of the modules, `items` the names of tensors of which a module gives several, by all ways
    to write them.
    """
    modules = _modules(model, known, written)
    if written in known or (modules and _ENDS_WITH_INDEX.search(written)):
        return modules
    # Before a glob: the letters of `[codes]` would be one too.
    return _items(model, known, items, written) or modules


def unknown(model: nn.Module, known: list[str], items: Mapping[str, str], written: str) -> UnknownNameError:
    """Says which names are near a written one that nothing bears, what a deeper glob finds, and how to see all."""
    way_out = [*_deeper(model, known, written)]
    way_out.append(f"This network has {len(known)} layers: `clip-dissect layers TARGET` lists them.")
    if last := _LAST_BRACKETS.fullmatch(written):
        for module in _modules(model, known, last["before"])[:1]:
            of = sorted({name for name in items.values() if name.startswith(f"{module}[")})
            way_out.append(f"Layer {module!r} gives {f'the tensors {listed(of)}' if of else 'one tensor or none'}.")
    if _INDEX.search(written):
        way_out.append("A number in brackets is an index; a glob is written layer[1-3] or layer?.")
    return UnknownNameError.of("layer", written, known, " ".join(way_out))


def _modules(model: nn.Module, known: list[str], written: str) -> list[str]:
    if written in known:
        return [written]
    parts = _INDEX.sub(r".[\1]", written).replace("..", ".").lstrip(".").split(".")
    found = set(_find(model, parts))
    return [name for name in known if name in found]


def _items(model: nn.Module, known: list[str], items: Mapping[str, str], written: str) -> list[str]:
    """Items of the layers that `written` stands for without its last brackets, or without more of them."""
    if written in items:
        return [items[written]]
    brackets = ""
    while last := _LAST_BRACKETS.fullmatch(written):
        written, brackets = last["before"], last["brackets"] + brackets
        wanted = (module + brackets for module in _modules(model, known, written))
        if found := [items[name] for name in wanted if name in items]:
            return found
    return []


def _find(module: nn.Module, parts: list[str]) -> Iterator[str]:
    """Names of the modules inside `module` that the parts of a written name lead to."""
    children = module._modules  # named_children() leaves out what stands there twice, and indices would shift
    part, *rest = parts
    if part == ANY_DEPTH and rest:
        yield from _find(module, rest)
    for name in _matching(module, list(children), part):
        child = children[name]
        if child is None:
            continue
        if not rest:
            yield name
        inner = parts if part == ANY_DEPTH else rest
        yield from (f"{name}.{inside}" for inside in _find(child, inner)) if inner else ()


def _matching(module: nn.Module, names: list[str], part: str) -> list[str]:
    index = _INDEX.match(part)
    if index is None:
        return [name for name in names if fnmatchcase(name, part)]
    if index.end() < len(part):
        return []
    number = int(index[1])
    # torchvision names the blocks of its ViT encoder_layer_0 and so on: there too, [0] is the first.
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return [names[number]] if -len(names) <= number < len(names) else []
    return [name for name in names if name == index[1]]


def _deeper(model: nn.Module, known: list[str], written: str) -> Iterable[str]:
    """Says what a glob of any depth would find, where it finds something."""
    *before, last = written.split(".")
    if last in ("*", ANY_DEPTH):
        return
    deep = [ANY_DEPTH if part == "*" else part for part in before]
    if not deep or deep[-1] != ANY_DEPTH:
        deep.append(ANY_DEPTH)
    for glob in dict.fromkeys((".".join([*deep, last]), f"{ANY_DEPTH}.{last}")):
        if found := _modules(model, known, glob):
            star = "A * ends at a dot, and ** does not: " if "*" in written else ""
            names = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
            yield f"{star}{glob} finds {len(found)} layer{'s' * (len(found) != 1)} ({names})."
            return
