"""The layers of a model: their names as users write them, their shapes, their layouts."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.dissection.layouts import Layout, PrefixTokens, Seen, find_layout
from tasks.dissection.summary import SummaryName, first_tensor, summarise

#: Images in a trace, and in the pass that it is compared with: two numbers, which show the axis of images.
NUM_IMAGES, OTHER_NUM_IMAGES = 3, 2
_INDEX = re.compile(r"\[(-?\d+)\]")


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

    @property
    def num_neurons(self) -> int | None:
        """`N`, or None where no activations can be read."""
        if self.shape is None or self.layout is None:
            return None
        return self.shape[self.layout.neuron_axis]


def resolve(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Layer names of `model` for what a user wrote, each once, in the order written.

    A number in brackets is an index as in Python: `classifier[4]` is `classifier.4`, `blocks[-1]` the last block.
    Anything else may be a glob, brackets too: `layer*`, `layer[1-3]` or `features.*` stand for all matching layers
    of that depth, in the model's order. Raises `UnknownNameError` with the nearest names.
    """
    known = [name for name, _ in model.named_modules() if name]
    found: dict[str, None] = {}
    for written in names:
        parts = _INDEX.sub(r".[\1]", written).replace("..", ".").lstrip(".").split(".")
        matches = [written] if written in known else [name for name in _find(model, parts) if name in known]
        if not matches:
            way_out = f"This network has {len(known)} layers: `clip-dissect layers TARGET` lists them."
            if _INDEX.search(written):
                way_out += " A number in brackets is an index; a glob is written layer[1-3] or layer?."
            raise UnknownNameError.of("layer", written, known, way_out)
        found.update(dict.fromkeys(matches))
    return tuple(found)


def _find(module: nn.Module, parts: list[str]) -> Iterator[str]:
    """Names of the modules inside `module` that the parts of a written name lead to."""
    children = module._modules  # named_children() leaves out what stands there twice, and indices would shift
    part, *rest = parts
    for name in _matching(module, list(children), part):
        child = children[name]
        if child is not None:
            yield from (f"{name}.{inside}" for inside in _find(child, rest)) if rest else [name]


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


@torch.no_grad()
def trace(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, TracedLayer]:
    """Every named layer as one forward pass over images of `image_shape` (`C, H, W`) shows it, by name.

    Another pass, over images of twice the size where the network takes them, tells the axes of an output from one
    another. A layer that the pass does not reach has `num_calls` 0.
    """
    others = _compared(model, image_shape)
    outputs = _forward(model, NUM_IMAGES, image_shape)
    modules = dict(model.named_modules())
    image_size = image_shape[-2], image_shape[-1]
    traced: dict[str, TracedLayer] = {}
    for name, output in outputs.items():
        kind = type(modules[name]).__name__
        if output.shape is None:
            traced[name] = TracedLayer(name, kind, None, None, output.num_calls, output.problem)
            continue
        seen, other = Seen(output.shape, NUM_IMAGES), others[name].shape
        compared = Seen(other, OTHER_NUM_IMAGES) if other else None
        said = _said_prefix_tokens(modules, name)
        try:
            layout, shape = find_layout(name, image_size, seen, compared, said)
            traced[name] = TracedLayer(name, kind, shape, layout, output.num_calls)
        except LayerError as error:
            traced[name] = TracedLayer(name, kind, None, None, output.num_calls, str(error))
    return traced


@dataclass
class _Output:
    """What a layer gave in a forward pass."""

    num_calls: int = 0
    shape: tuple[int, ...] | None = None
    #: Why it has no shape.
    problem: str | None = None


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
    modules = {name: module for name, module in model.named_modules() if name}
    outputs = {name: _Output() for name in modules}

    def watcher(name: str, seen: _Output) -> Any:
        def watch(module: nn.Module, args: Any, output: object) -> None:
            del module, args
            seen.num_calls += 1
            try:
                seen.shape = tuple(first_tensor(output, name).shape)
            except LayerError as error:
                seen.problem = str(error)

        return watch

    handles = [module.register_forward_hook(watcher(name, outputs[name])) for name, module in modules.items()]
    parameter = next(model.parameters(), torch.empty(0))
    try:
        model(torch.zeros(num_images, *image_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


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


def recordable(traced: dict[str, TracedLayer], names: Iterable[str], summary: SummaryName) -> dict[str, Layout]:
    """Layouts of the layers `names`, in that order. Raises `LayerError` for one that cannot be recorded."""
    layouts: dict[str, Layout] = {}
    for name in names:
        layer = traced[name]
        if layer.num_calls == 0:
            raise LayerError(
                f"Layer {name!r} ({layer.kind}) does not run in the forward pass (fused attention skips its "
                "projections). Record the block that contains it."
            )
        if layer.num_calls > 1:
            raise LayerError(
                f"Layer {name!r} ({layer.kind}) runs {layer.num_calls} times in one forward pass, so its neurons "
                "have no one activation. Record the block that contains it, or the layer before it."
            )
        if layer.layout is None or layer.shape is None:
            raise LayerError(layer.problem)
        output = torch.zeros(layer.shape).unsqueeze(layer.layout.image_axis)
        summarise(output, layer.layout, summary, name)  # refuses a summary that does not fit
        layouts[name] = layer.layout
    return layouts
