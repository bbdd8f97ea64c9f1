"""Recording: forward hooks that keep one number per neuron and image, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tasks.dissection.errors import LayerError
from tasks.dissection.layouts import Layout
from tasks.dissection.outputs import module_name, tensor_of
from tasks.dissection.summary import SummaryName, summarise


@contextmanager
def recorded(model: nn.Module, layouts: Mapping[str, Layout], summary: SummaryName) -> Iterator[dict[str, Tensor]]:
    """Inside the `with`, every `model(images)` fills the dict yielded with `layer: activations [B, N]`.

    A layer's name may choose one of the tensors that its module gives: `sae[1]`.

    Activations are summarised and copied in the hook, before any later in-place operation reaches them; each
    forward pass starts anew. Raises `LayerError` for a layer that runs twice in one pass (which of the two is
    the neuron's activation?) or gives something no summary function fits.
    """
    activations: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    handles = [model.register_forward_pre_hook(lambda *_: activations.clear())]

    def keeper(name: str, item: str, layout: Layout) -> Any:
        def keep(module: nn.Module, args: Any, output: object) -> None:
            del module, args
            if name in activations:
                raise LayerError(
                    f"Layer {name!r} runs more than once in a forward pass, so its neurons have no one activation. "
                    "Record the block that contains it, or the layer before it."
                )
            activations[name] = summarise(tensor_of(output, name, item).detach(), layout, summary, name)

        return keep

    try:
        for name, layout in layouts.items():
            module = module_name(name, modules)
            handles.append(modules[module].register_forward_hook(keeper(name, name.removeprefix(module), layout)))
        yield activations
    finally:
        for handle in handles:
            handle.remove()
