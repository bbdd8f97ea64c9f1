"""Networks to dissect, by what a user writes for `--target`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.dissection.errors import UnknownNameError
from tasks.dissection.hooks import recorded
from tasks.dissection.layouts import Layout
from tasks.dissection.summary import SummaryName
from tasks.models.checkpoints import digest_of_weights, load_into, loading, read_checkpoint, unwrapped
from tasks.models.describe import Description
from tasks.models.devices import Batches, Placement
from tasks.models.downloads import downloading
from tasks.models.errors import ModelError, UnknownModelError
from tasks.models.preprocess import Preprocess, chosen_preprocess, describe, imagenet_preprocess
from tasks.models.seeds import seeded
from tasks.models.user_code import import_from_here
from tasks.parameters import names_function

#: WEIGHTS that stand for an untrained network: what a control experiment dissects.
RANDOM = "random"
#: Bytes of the largest network that is built a second time, to see whether its weights are random.
LARGEST_BUILT_TWICE = 2**30


#: Names activations: summary function and layer.
Recorded = tuple[SummaryName, str]


@dataclass(frozen=True, eq=False)
class Target:
    """A network to dissect, on the CPU, in float32 and evaluation mode."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    #: What its activations depend on: weights, architecture, preprocessing.
    identity: dict[str, str]
    #: What whoever reads the labels should know of it.
    notes: tuple[str, ...] = ()


class PlacedTarget:
    """A network ready to record on a device that the caller holds."""

    def __init__(self, target: Target, placement: Placement) -> None:
        self._source, self._placement = target, placement
        self._model = placement.place(target.model)
        self._compiled: nn.Module | None = None
        self._compiled_for: dict[SummaryName, tuple[str, ...]] = {}
        self._batches = Batches(f"network {target.name}", placement)

    def stands_for(self, source: Target, placement: Placement) -> bool:
        """Whether it is just this."""
        return source is self._source and placement == self._placement

    def record(
        self, layouts: Mapping[SummaryName, Mapping[str, Layout]], images: Tensor, batch_size: int
    ) -> dict[Recorded, Tensor]:
        """Activations `[I, N]` float32, on the CPU, of preprocessed images `[I, 3, H, W]`, by batches.

        They are named by summary function and layer, as are the `layouts` of what to record. Raises `LayerError`,
        `ModelError`.
        """

        def forward(batch: Tensor) -> dict[Recorded, Tensor]:
            with ExitStack() as hooks:
                found = {
                    summary: hooks.enter_context(recorded(self._model, of, summary))
                    for summary, of in layouts.items()
                }
                network(self._placement.inputs(batch))
                return {(summary, layer): out for summary, of in found.items() for layer, out in of.items()}

        network = self._network({summary: tuple(of) for summary, of in layouts.items()})
        return self._batches.run(forward, images, batch_size)

    def _network(self, hooked: dict[SummaryName, tuple[str, ...]]) -> nn.Module:
        """The network itself, or compiled for the layers that are recorded."""
        if not self._placement.compile:
            return self._model
        if self._compiled is None or hooked != self._compiled_for:
            torch.compiler.reset()  # code that is compiled does not notice other hooks
            self._compiled, self._compiled_for = cast(nn.Module, torch.compile(self._model)), hooked
        return self._compiled


@lru_cache(maxsize=1)  # of many checkpoints in a row, a process holds one
def load_target(name: str, checkpoint: str | None, preprocess: str | None = None) -> Target:
    """Loads a network once per process, or once until another is loaded.

    `name` is `torchvision:NAME[/WEIGHTS]`, `timm:NAME[/random]`, `open_clip:NAME/PRETRAINED`, `module:function` or
    `sample`; `preprocess` takes the place of its own preprocessing. Raises `ModelError` (unknown name, checkpoint
    that does not fit, weights that cannot be fetched).
    """
    kind, _, rest = name.partition(":")
    if name == "sample":
        kind, rest = "tasks.sample.network", "target"
    if not kind or not rest:
        raise UnknownModelError(
            f"There is no target {name!r}. Write torchvision:NAME, timm:NAME, open_clip:NAME/PRETRAINED, "
            "module:function, or sample."
        )
    # open_clip reads a checkpoint itself: it is that of the whole model, of which the target is a part.
    weights = read_checkpoint(checkpoint) if checkpoint and kind != "open_clip" else None
    makers = {"torchvision": _from_torchvision, "timm": _from_timm}
    own: OwnCode | None = None
    brought: Preprocess | None
    if kind == "open_clip":
        model, brought = _from_open_clip(rest, checkpoint)
    elif kind in makers:
        model, brought = makers[kind](rest, weights)
    else:
        model, brought, own = _from_function(kind, rest)
    if weights is not None and checkpoint is not None:
        load_into(model, weights, checkpoint)
    model = model.eval().requires_grad_(False).cpu()
    chosen, module = chosen_preprocess(preprocess) if preprocess else (brought or imagenet_preprocess(), None)
    identity = {
        "architecture": _architecture(model, own),
        "weights": digest_of_weights(model),
        "preprocess": describe(chosen, module or (own.module if own else None)),
    }
    notes = () if preprocess or brought else (_ASSUMED.format(name=name),)
    return Target(name, model, chosen, identity, notes)


@dataclass(frozen=True)
class OwnCode:
    """The function that a user names as target."""

    module: str
    function: str


#: Note on a network that says nothing of its preprocessing.
_ASSUMED = (
    "{name} brings no preprocessing, so that of ImageNet's networks is used: the shorter side is resized to 256 "
    "pixels, the middle 224 x 224 taken, and normalised by ImageNet's mean and standard deviation. Labels of a "
    "network that was trained otherwise mislead: give --preprocess (32 for images of 32 x 32 pixels), or "
    "--preprocess imagenet where this is right."
)


def _architecture(model: nn.Module, own: OwnCode | None) -> str:
    """A text that changes when what the network does with its weights changes.

    Of its modules' settings, functions and buffers; of the user's code they run; of the versions of libraries. The
    user's function too: two of one module may build the same weights and do other things with them.
    """
    description = Description(model.state_dict(keep_vars=True).values(), own.module if own else None)
    digest = hashlib.sha256(description.text(model).encode()).hexdigest()
    if own:
        description.modules.add(own.module)
    return " ".join([digest, *([own.function] if own else []), description.code()]).strip()


def weights_are_random(target: Target) -> bool:
    """True if the weights of a user's function are drawn anew at every call: it is called once more to see.

    The network is then the one of random seed 0. False where that cannot be told: the function fails the second
    time, or the network is so large that two of them may be too much for the memory.
    """
    kind, _, rest = target.name.partition(":")
    size = sum(tensor.nbytes for tensor in target.model.state_dict().values())
    if not names_function(target.name) or size > LARGEST_BUILT_TWICE:
        return False
    try:
        model, _, _ = _from_function(kind, rest, seed=1)
    except Exception:
        return False
    return digest_of_weights(model.cpu()) != target.identity["weights"]


def _from_torchvision(rest: str, weights: dict[str, Tensor] | None) -> tuple[nn.Module, Preprocess]:
    import torchvision
    from torchvision.models import get_model, get_model_weights, list_models

    name, _, version = rest.partition("/")
    known = list_models(module=torchvision.models)
    if name not in known:
        raise UnknownNameError.of("torchvision network", name, known, f"torchvision has {len(known)}.")
    versions = get_model_weights(name)
    if version and version != RANDOM and version not in versions.__members__ and version != "DEFAULT":
        raise UnknownModelError(
            f"{name} has no weights {version!r}, but {', '.join(versions.__members__)}, {RANDOM}."
        )
    # A checkpoint comes without its preprocessing: that of the weights named, or of the default ones, is taken.
    entry = versions["DEFAULT" if version in ("", RANDOM) else version]
    if weights is not None:
        model = _fitting(name, weights)
    elif version == RANDOM:
        torch.manual_seed(0)
        model = get_model(name, weights=None)
    else:
        with downloading(f"torchvision:{name}/{entry.name}", "--checkpoint FILE"), loading():
            model = get_model(name, weights=entry)
    return model, entry.transforms()


def _fitting(name: str, weights: dict[str, Tensor]) -> nn.Module:
    """A torchvision network with as many classes as a checkpoint has (365 for Places)."""
    from torchvision.models import get_model

    # Published weights of these two expect input scaled anew, which torchvision does only when it loads them itself.
    scaled = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = get_model(name, weights=None, **scaled)
    found = unwrapped(weights, model.state_dict())
    # The classifier is the bias, of all that are there, whose length changes with the number of classes.
    with torch.device("meta"):
        other = get_model(name, weights=None, num_classes=2).state_dict()
    for key, tensor in model.state_dict().items():
        is_classifier = tensor.ndim == 1 and tensor.shape != other[key].shape
        if is_classifier and key in found and found[key].shape != tensor.shape:
            fitting: nn.Module = get_model(name, weights=None, num_classes=len(found[key]), **scaled)
            return fitting
    return model


def _from_timm(rest: str, weights: dict[str, Tensor] | None) -> tuple[nn.Module, Preprocess]:
    import timm

    name = rest.removesuffix(f"/{RANDOM}")
    base = name.removeprefix("hf-hub:").partition(".")[0]
    if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(base):
        raise UnknownNameError.of("timm network", base, timm.list_models(), "`timm.list_models()` lists them.")
    tag = name.partition(".")[2]
    tags = timm.models.list_pretrained(f"{base}.*")
    if tag and timm.is_model(base) and name not in tags:
        raise UnknownModelError(f"{base} has no weights {tag!r}, but {', '.join(tags) or 'none'}, {base}/{RANDOM}.")
    torch.manual_seed(0)
    with downloading(f"timm:{name}", "--checkpoint FILE"), loading():
        model = timm.create_model(name, pretrained=weights is None and name == rest)
    config = timm.data.resolve_model_data_config(model)
    return model, timm.data.create_transform(**config, is_training=False)


def _from_open_clip(rest: str, checkpoint: str | None) -> tuple[nn.Module, Preprocess]:
    """The image encoder of a CLIP model."""
    from tasks.models.clip import create_clip

    model, preprocess = create_clip(rest, checkpoint)
    visual: nn.Module = model.visual
    return visual, preprocess


def _from_function(module_name: str, function: str, seed: int = 0) -> tuple[nn.Module, Preprocess | None, OwnCode]:
    """`module:function` of the user's own, found from the working directory as `python -m` would find it.

    What it draws at random is the same in every process.
    """
    with loading(only_tensors=False), seeded(seed):
        module = import_from_here(module_name, f"target {module_name}:{function}")
    make = getattr(module, function, None)
    if not callable(make):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise UnknownNameError.of("function", function, functions, f"{module_name} has {', '.join(functions)}.")
    with loading(only_tensors=False), seeded(seed):
        made: Any = make()
    model, preprocess = made if isinstance(made, tuple) else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{module_name}:{function} gave {type(model).__name__}, not a torch.nn.Module.")
    return model, preprocess, OwnCode(module.__name__, function)
