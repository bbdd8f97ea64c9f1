"""The layers of a model: their names as users write them, their shapes, their layouts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from tasks.dissection import layer_names
from tasks.dissection.errors import LayerError
from tasks.dissection.layouts import Layout, PrefixTokens, Seen, find_layout
from tasks.dissection.outputs import items, listed, module_name, tensor_of
from tasks.dissection.summary import SummaryName, summarise

#: Images in a trace, and in the pass that it is compared with: two numbers, which show the axis of images.
NUM_IMAGES, OTHER_NUM_IMAGES = 3, 2


@dataclass(frozen=True)
class TracedLayer:
    """A layer as one forward pass showed it."""

    name: str
    #: Class name of the module.
    kind: str
    #: Shape of its output for one image, without the batch axis; None where no activations can be read from it.
    shape: tuple[int, ...] | None
    #: Where the output keeps its neurons; None as above.
    layout: Layout | None
    #: How often the module runs in one forward pass.
    num_calls: int
    #: Why no activations can be read from its output; None where they can, and where it does not run.
    problem: str | None = None
    #: Names of the tensors of floats in its output, where there are several: `sae[0]`, `sae[1]`. The name of the
    #: layer alone stands for the first in a tuple or list.
    items: tuple[str, ...] = ()
    #: Other names for it: `sae[-1]` for the last item `sae[1]`.
    aliases: tuple[str, ...] = ()

    @property
    def num_neurons(self) -> int | None:
        """`N`, or None where no activations can be read."""
        if self.shape is None or self.layout is None:
            return None
        return self.shape[self.layout.neuron_axis]


#: Layers that give several tensors of which a run says so, one by one.
CHOICES_SAID = 4
#: No trace: of a network whose layers are known by name alone.
NOTHING: Mapping[str, TracedLayer] = MappingProxyType({})


def resolve(model: nn.Module, names: Iterable[str], traced: Mapping[str, TracedLayer] = NOTHING) -> tuple[str, ...]:
    """Layer names of `model` for what a user wrote, each once, in the order written.

    A number in brackets is an index as in Python: `classifier[4]` is `classifier.4`, `blocks[-1]` the last block.
    Where there is no such module, brackets choose among the tensors that a module gives, as `traced` has them:
    `sae[1]`, `sae[codes]`. Anything else may be a glob, brackets too: `layer*`, `layer[1-3]` or `features.*` stand
    for all matching layers of that depth, in the model's order, and `**` for any depth: `**.fc1`. Raises
    `UnknownNameError` with the nearest names, and with what a deeper glob finds.
    """
    known = [name for name, _ in model.named_modules() if name]
    items = {alias: layer.name for layer in traced.values() for alias in layer.aliases}
    items |= {name: name for layer in traced.values() for name in layer.items}
    found: dict[str, None] = {}
    for written in names:
        matches = layer_names.find(model, known, items, written)
        if not matches:
            raise layer_names.unknown(model, known, items, written)
        found.update(dict.fromkeys(matches))
    return tuple(found)


@torch.no_grad()
def trace(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, TracedLayer]:
    """Every named layer as one forward pass over images of `image_shape` (`C, H, W`) shows it, by name.

    After a layer that gives several tensors come these, as layers of their own. Another pass, over images of twice
    the size where the network takes them, tells the axes of an output from one another. A layer that the pass does
    not reach has `num_calls` 0.
    """
    others = _compared(model, image_shape)
    modules = dict(model.named_modules())
    image_size = image_shape[-2], image_shape[-1]
    traced: dict[str, TracedLayer] = {}
    for name, output in _forward(model, NUM_IMAGES, image_shape).items():
        module = modules[module_name(name, modules)]
        layer = TracedLayer(
            name, type(module).__name__, None, None, output.num_calls, output.problem, output.items, output.aliases
        )
        traced[name] = layer
        if output.shape is None:
            continue
        seen, other = Seen(output.shape, NUM_IMAGES), others.get(name, _Output()).shape
        compared = Seen(other, OTHER_NUM_IMAGES) if other else None
        said = _said_prefix_tokens(modules, module_name(name, modules))
        try:
            layout, shape = find_layout(name, image_size, seen, compared, said)
            traced[name] = replace(layer, shape=shape, layout=layout)
        except LayerError as error:
            traced[name] = replace(layer, problem=str(error))
    return traced


@dataclass
class _Output:
    """What a layer gave in a forward pass."""

    num_calls: int = 0
    shape: tuple[int, ...] | None = None
    #: Why it has no shape.
    problem: str | None = None
    #: As in `TracedLayer`.
    items: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def _compared(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, _Output]:
    """What the layers give for images of twice the size, or of the same where the network takes no other."""
    *channels, height, width = image_shape
    try:
        # On a copy, for a network may keep what it made for a size; and on the CPU, for there a position beyond a
        # table of positions is an error like any other, and on a GPU it ends the process.
        return _forward(copy.deepcopy(model).cpu(), OTHER_NUM_IMAGES, (*channels, 2 * height, 2 * width))
    except Exception:  # whatever a network raises that takes one size
        return _forward(model, OTHER_NUM_IMAGES, image_shape)


def _forward(model: nn.Module, num_images: int, image_shape: tuple[int, ...]) -> dict[str, _Output]:
    """What every layer gave in a forward pass, and after each that gave several tensors, these."""
    modules = {name: module for name, module in model.named_modules() if name}
    outputs: dict[str, dict[str, _Output]] = {name: {} for name in modules}

    def watcher(name: str) -> Any:
        def watch(module: nn.Module, args: Any, output: object) -> None:
            del module, args
            num_calls = outputs[name][name].num_calls if outputs[name] else 0
            outputs[name] = _seen(name, output, num_calls + 1)

        return watch

    handles = [module.register_forward_hook(watcher(name)) for name, module in modules.items()]
    parameter = next(model.parameters(), torch.empty(0))
    try:
        model(torch.zeros(num_images, *image_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    # A module may have the name that an item would have: the module is meant.
    given = {item: seen for name, of in outputs.items() for item, seen in (of or {name: _Output()}).items()}
    return given | {name: of.get(name, _Output()) for name, of in outputs.items()}


def _seen(name: str, output: object, num_calls: int) -> dict[str, _Output]:
    """What the output of a module shows of the layer, and of its items where there are several."""
    found = items(output)
    own = _Output(num_calls)
    try:
        own.shape = tuple(tensor_of(output, name, "").shape)
    except LayerError as error:
        own.problem = str(error)
    if len(found) < 2:
        own.aliases = tuple(name + brackets for item in found for brackets in (item.name, *item.aliases) if brackets)
        return {name: own}
    own.items = tuple(name + item.name for item in found)
    return {name: own} | {
        name + item.name: _Output(
            num_calls, tuple(item.tensor.shape), aliases=tuple(name + brackets for brackets in item.aliases)
        )
        for item in found
    }


def _said_prefix_tokens(modules: dict[str, nn.Module], name: str) -> PrefixTokens | None:
    """What the nearest module around layer `name` says of the tokens before its patches."""
    while True:
        number = getattr(modules[name], "num_prefix_tokens", None)
        if isinstance(number, int):
            # timm's later networks say whether there is a class token, its earlier ones have cls_token or None.
            has_one = getattr(modules[name], "has_class_token", getattr(modules[name], "cls_token", True) is not None)
            return PrefixTokens(number, bool(has_one))
        if not name:
            return None
        name = name.rpartition(".")[0]


def choices(traced: Mapping[str, TracedLayer], names: Iterable[str]) -> list[str]:
    """Says of each layer of `names` that gives several tensors which of them is recorded, and names the others."""
    said = []
    for name in names:
        taken, *others = traced[name].items or (name,)
        others = [other for other in others if traced[other].layout]
        if others:
            said.append(
                f"Layer {name} gives {len(traced[name].items)} tensors, and the first of them, {taken}, is recorded. "
                f"To record another, name it: {listed(others)}."
            )
    more = len(said) - CHOICES_SAID
    return said if more <= 0 else [*said[:CHOICES_SAID], f"So it is of {more} more layers that give several tensors."]


def _around(traced: Mapping[str, TracedLayer], name: str) -> str:
    """The nearest layer around another that can be recorded, for a message; empty where there is none."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in traced and traced[name].layout and traced[name].num_calls == 1:
            return f", {name!r}"
    return ""


def recordable(traced: dict[str, TracedLayer], names: Iterable[str], summary: SummaryName) -> dict[str, Layout]:
    """Layouts of the layers `names`, in that order. Raises `LayerError` for one that cannot be recorded."""
    layouts: dict[str, Layout] = {}
    for name in names:
        layer = traced[name]
        if layer.num_calls == 0:
            raise LayerError(
                f"Layer {name!r} ({layer.kind}) does not run in the forward pass (fused attention skips its "
                f"projections). Record the block that contains it{_around(traced, name)}."
            )
        if layer.num_calls > 1:
            raise LayerError(
                f"Layer {name!r} ({layer.kind}) runs {layer.num_calls} times in one forward pass, so its neurons "
                f"have no one activation. Record the block that contains it{_around(traced, name)}, or the layer "
                "before it."
            )
        if layer.layout is None or layer.shape is None:
            readable = [item for item in layer.items if traced[item].layout]
            raise LayerError(f"{layer.problem} Record {' or '.join(readable)}." if readable else layer.problem)
        output = torch.zeros(layer.shape).unsqueeze(layer.layout.image_axis)
        summarise(output, layer.layout, summary, name)  # refuses a summary that does not fit
        layouts[name] = layer.layout
    return layouts
