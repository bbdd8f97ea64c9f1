"""The layers of a model: their names as users write them, their shapes, their layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.dissection.summary import Layout, SummaryName, first_tensor, summarise

#: Images in a trace. Three, so that an output whose first axis is not the batch is told from one whose is.
TRACE_BATCH = 3


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

    @property
    def num_neurons(self) -> int | None:
        """`N`, or None where no activations can be read."""
        if self.shape is None or self.layout is None:
            return None
        return self.shape[0] if self.layout is Layout.MAP else self.shape[-1]


def resolve(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Layer names of `model` for what a user wrote, each once, in the order written.

    `classifier[4]` is `classifier.4`; a glob such as `layer*` or `features.*` stands for all matching layers of
    that depth, in the model's order. Raises `UnknownNameError` with the nearest names.
    """
    known = [name for name, _ in model.named_modules() if name]
    found: dict[str, None] = {}
    for written in names:
        pattern = written if written in known else re.sub(r"\[(\d+)\]", r".\1", written).lstrip(".")
        parts = pattern.split(".")
        matches = [n for n in known if n == pattern or _matches(n.split("."), parts)]
        if not matches:
            way_out = f"This network has {len(known)} layers: `clip-dissect layers TARGET` lists them."
            raise UnknownNameError.of("layer", written, known, way_out)
        found.update(dict.fromkeys(matches))
    return tuple(found)


def _matches(name: list[str], pattern: list[str]) -> bool:
    return len(name) == len(pattern) and all(fnmatchcase(n, p) for n, p in zip(name, pattern, strict=True))


@torch.no_grad()
def trace(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, TracedLayer]:
    """Every named layer as one forward pass over images of `image_shape` (`C, H, W`) shows it, by name.

    A layer that the pass does not reach has `num_calls` 0.
    """
    calls: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def watcher(name: str) -> Any:
        def watch(module: nn.Module, args: Any, output: object) -> None:
            del module, args
            calls[name] = calls.get(name, 0) + 1
            try:
                tensor = first_tensor(output, name)
            except LayerError:
                return
            shapes[name] = tuple(tensor.shape)

        return watch

    modules = {name: module for name, module in model.named_modules() if name}
    handles = [module.register_forward_hook(watcher(name)) for name, module in modules.items()]
    parameter = next(model.parameters(), torch.empty(0))
    try:
        model(torch.zeros(TRACE_BATCH, *image_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: _traced(name, type(module).__name__, shapes.get(name), calls.get(name, 0))
        for name, module in modules.items()
    }


def _traced(name: str, kind: str, shape: tuple[int, ...] | None, num_calls: int) -> TracedLayer:
    # An output whose first axis is not the batch (windows of Swin, tokens first) has no row per image.
    if shape is None or len(shape) not in (2, 3, 4, 5) or shape[0] != TRACE_BATCH:
        return TracedLayer(name, kind, None, None, num_calls)
    return TracedLayer(name, kind, shape[1:], Layout.of(shape, name), num_calls)


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
            raise LayerError(
                f"Layer {name!r} ({layer.kind}) does not give one tensor of floats with a row per image. "
                "Choose a layer inside or after it."
            )
        summarise(torch.zeros(1, *layer.shape), layer.layout, summary, name)  # refuses a summary that does not fit
        layouts[name] = layer.layout
    return layouts
