"""A trial of whether what a network says of an image depends on the images beside it, or on chance.

The activations of such a network would be those of a batch: other ones with another batch size, or another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.dissection.errors import LayerError
from tasks.dissection.layouts import Layout
from tasks.dissection.outputs import items, module_name, tensor_of

#: Images of a trial.
NUM_TRIAL_IMAGES = 3
#: Batches of a trial, by the numbers of their images. Number 0 is looked at: alone, first, after another, once again.
BATCHES = ((0, 1), (0, 1), (2, 0), (0,))
#: Largest difference that is rounding, as a share of a layer's largest value. Batches of other sizes are multiplied
#: in another order, which made 1e-6 at most in any layer of 16 networks of torchvision and timm with random weights.
TOLERANCE = 1e-3
#: The tolerance of networks in half precision, in units of their rounding.
ROUNDINGS = 16


@dataclass(frozen=True)
class _Moment:
    """What went into a module, or came out of it, for the image that is looked at."""

    name: str
    is_input: bool
    value: Tensor


@dataclass(frozen=True)
class _Difference:
    largest: float
    #: Largest absolute value of the two.
    scale: float
    #: The share of that which is rounding.
    tolerance: float = TOLERANCE

    @property
    def is_rounding(self) -> bool:
        return self.largest <= self.tolerance * self.scale

    def __str__(self) -> str:
        return f"by up to {self.largest:.3g}, where its largest value is {self.scale:.3g}"


@torch.no_grad()
def refuse_batch_dependence(model: nn.Module, images: Tensor, layouts: Mapping[str, Layout]) -> None:
    """Raises `LayerError` where a layer's output for an image is another beside other images, or each time.

    `images` are `NUM_TRIAL_IMAGES` preprocessed ones that differ, `[3, C, H, W]`; `layouts` are of the layers to
    record. The message names the first module whose output does so.
    """
    first = _outputs(model, images, BATCHES[0], layouts)
    for batch in BATCHES[1:]:
        other = _outputs(model, images, batch, layouts)
        if other is None or first is None:
            continue
        for layer in [layer for layer in layouts if layer in first and layer in other]:
            difference = _difference(first[layer], other[layer])
            if not difference.is_rounding:
                culprit = _culprit(model, images, batch)
                raise LayerError(_message(layer, difference, culprit, is_random=batch == BATCHES[0]))


def _outputs(
    model: nn.Module, images: Tensor, batch: Sequence[int], layouts: Mapping[str, Layout]
) -> dict[str, Tensor] | None:
    """Outputs of the layers for image 0; None where the network takes no single image."""
    found: dict[str, Tensor] = {}
    position = batch.index(0)

    def keeper(name: str, item: str, layout: Layout) -> Any:
        def keep(module: nn.Module, args: Any, output: object) -> None:
            del module, args
            found[name] = tensor_of(output, name, item).select(layout.image_axis, position).detach().clone()

        return keep

    modules = dict(model.named_modules())
    hooks = []
    for name, layout in layouts.items():
        module = module_name(name, modules)
        keep = keeper(name, name.removeprefix(module), layout)
        hooks.append(modules[module].register_forward_hook(keep))
    try:
        model(images[list(batch)])
    except Exception:  # as batch statistics of one vector do
        if len(batch) > 1:
            raise
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _difference(one: Tensor, other: Tensor) -> _Difference:
    if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
        return _Difference(torch.inf, 0.0)
    finite = one.isfinite()
    first, second = one[finite].double(), other[finite].double()
    if not len(first):
        return _Difference(0.0, 0.0)
    rounding = ROUNDINGS * torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
    scale = max(first.abs().max().item(), second.abs().max().item())
    largest = (first - second).abs().max().item()
    return _Difference(largest, scale, max(TOLERANCE, rounding))


@dataclass(frozen=True)
class _Culprit:
    name: str
    module: nn.Module
    #: True if what depends on the batch is done by the module's own code, before it calls the module named `before`.
    before: str | None = None

    def __str__(self) -> str:
        kind = type(self.module).__name__
        who = f"module {self.name!r} ({kind})" if self.name else f"the network itself ({kind})"
        return f"the code of {who}, before it calls {self.before!r}" if self.before else who


def _culprit(model: nn.Module, images: Tensor, batch: Sequence[int]) -> _Culprit | None:
    """The first module in forward order whose output differs; the one around it where its input did already."""
    modules = dict(model.named_modules())
    pairs = zip(_moments(model, images, BATCHES[0]), _moments(model, images, batch), strict=False)
    for one, other in pairs:
        if one.name == other.name and not _difference(one.value, other.value).is_rounding:
            if not one.is_input:
                return _Culprit(one.name, modules[one.name])
            around = one.name.rpartition(".")[0]
            while around and isinstance(modules[around], nn.Sequential | nn.ModuleList | nn.ModuleDict):
                around = around.rpartition(".")[0]  # they run no code of their own
            return _Culprit(around, modules[around], one.name)
    return None


def _moments(model: nn.Module, images: Tensor, batch: Sequence[int]) -> list[_Moment]:
    moments: list[_Moment] = []

    def keep(name: str, value: object, *, is_input: bool) -> None:
        for item in items(value):
            row = _row_of(item.tensor, len(batch), batch.index(0))
            if row is not None:
                moments.append(_Moment(name, is_input, row.detach().clone()))

    with _watched(model, keep):
        model(images[list(batch)])
    return moments


@contextmanager
def _watched(model: nn.Module, keep: Any) -> Iterator[None]:
    """Inside the `with`, `keep` is told what goes into each module and comes out of it."""

    def before(name: str) -> Any:
        return lambda _, args: keep(name, args, is_input=True)

    def after(name: str) -> Any:
        return lambda _module, _args, output: keep(name, output, is_input=False)

    hooks: list[Any] = []
    try:
        for name, module in model.named_modules():
            hooks += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _row_of(value: Tensor, num_images: int, position: int) -> Tensor | None:
    """The part of a tensor that is of one image; None where it has no axis of images."""
    if value.ndim and value.shape[0] == num_images:
        return value[position]
    if value.ndim == 3 and value.shape[1] == num_images:  # tokens before images
        return value[:, position]
    if value.ndim > 1 and value.shape[0] % num_images == 0:  # windows of all images
        return value.reshape(num_images, -1, *value.shape[1:])[position]
    return None


def _message(layer: str, difference: _Difference, culprit: _Culprit | None, *, is_random: bool) -> str:
    what = "each time" if is_random else "beside other images"
    found = f"Layer {layer!r} gives other activations of the same image {what}: they differ {difference}."
    where = f" It begins with {culprit}." if culprit else ""
    return f"{found}{where} {_way_out(culprit, is_random=is_random)}"


def _way_out(culprit: _Culprit | None, *, is_random: bool) -> str:
    if culprit and not culprit.before and isinstance(culprit.module, nn.modules.batchnorm._NormBase):
        return (
            "It normalises by the statistics of the batch, for it has no running statistics, or is in training mode: "
            "build the network with track_running_stats=True, load weights that hold running_mean and running_var, "
            "and let it go into evaluation mode. Or record a layer before it."
        )
    if is_random:
        return (
            "Labels of it would be by chance. Switch chance off in evaluation mode, as in F.dropout(x, p, "
            "training=self.training). Or record a layer before it."
        )
    return (
        "Its labels would depend on --batch-size and on the order of the images. Let the network treat each image by "
        "itself in evaluation mode. Or record a layer before it."
    )
