"""Networks to dissect, by what a user writes for `--target`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from tasks.dissection.errors import UnknownNameError
from tasks.dissection.hooks import recorded
from tasks.dissection.layouts import Layout
from tasks.dissection.summary import SummaryName
from tasks.models.batches import Batches, Replicas, Timed
from tasks.models.checkpoints import load_into, loading, read_checkpoint, refuse_unusual
from tasks.models.choosing import Checkpoint
from tasks.models.describe import Description
from tasks.models.devices import Placement
from tasks.models.downloads import downloading
from tasks.models.errors import CheckpointError, UnknownModelError
from tasks.models.functions import function_in, imported, network_and_preprocessing
from tasks.models.preprocess import Preprocess, chosen_preprocess, describe, giving_tensors, imagenet_preprocess
from tasks.models.seeds import seeded
from tasks.models.weights_digest import digest_of_weights
from tasks.parameters import names_function

#: WEIGHTS that stand for an untrained network: what a control experiment dissects.
RANDOM = "random"
#: The function that makes the embedded sample's network.
SAMPLE = "tasks.sample.network:target"
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
    #: What whoever reads the labels should know of it: what was chosen or converted without being asked.
    notes: tuple[str, ...] = ()


class PlacedTarget:
    """A network ready to record on a device that the caller holds."""

    def __init__(self, target: Target, placement: Placement) -> None:
        self._source, self._placement = target, placement
        self._model = placement.place(target.model)
        self._replicas = Replicas(self._model)
        self._compiled: nn.Module | None = None
        self._compiled_for: dict[SummaryName, tuple[str, ...]] = {}
        self._batches = Batches(f"network {target.name}", placement)

    def stands_for(self, source: Target, placement: Placement) -> bool:
        """Whether it is just this."""
        return source is self._source and placement == self._placement

    def record(
        self,
        layouts: Mapping[SummaryName, Mapping[str, Layout]],
        images: Tensor,
        batch_size: int,
        timed: Timed = nullcontext,
    ) -> Callable[[], dict[Recorded, Tensor]]:
        """Begins to record preprocessed images `[I, 3, H, W]`, by batches; returns a function that waits for it.

        That gives activations `[I, N]` float32, on the CPU, named by summary function and layer, as are the `layouts`
        of what to record. Raises `LayerError`, `ModelError`. Each forward pass is made inside `timed()`.
        """
        compiled = self._compiled_for_hooks({summary: tuple(of) for summary, of in layouts.items()})

        def forward(batch: Tensor) -> dict[Recorded, Tensor]:
            with ExitStack() as context:
                model = self._model if compiled else context.enter_context(self._replicas.one())
                found = {
                    summary: context.enter_context(recorded(model, of, summary)) for summary, of in layouts.items()
                }
                (compiled or model)(self._placement.inputs(batch))
                return {(summary, layer): out for summary, of in found.items() for layer, out in of.items()}

        return self._batches.start(forward, images, batch_size, timed)

    def _compiled_for_hooks(self, hooked: dict[SummaryName, tuple[str, ...]]) -> nn.Module | None:
        """The network compiled for the layers that are recorded; None where it is not to be compiled."""
        if self._placement.compile and (self._compiled is None or hooked != self._compiled_for):
            torch.compiler.reset()  # code that is compiled does not notice other hooks
            self._compiled, self._compiled_for = cast(nn.Module, torch.compile(self._model)), hooked
        return self._compiled


@lru_cache(maxsize=1)  # of many checkpoints in a row, a process holds one
def load_target(
    name: str,
    checkpoint: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    preprocess: str | None = None,
) -> Target:
    """Loads a network once per process, or once until another is loaded.

    `name` is `torchvision:NAME[/WEIGHTS]`, `timm:NAME[/random]`, `open_clip:NAME/PRETRAINED`, `module:function`,
    `file.py:function` or `sample`. `key` and `prefix` say where in the checkpoint the weights are; `preprocess` takes
    the place of the network's own preprocessing. Raises `ModelError` (unknown name, checkpoint that does not fit,
    weights that cannot be fetched).
    """
    kind, _, rest = name.partition(":")
    if name != "sample" and (not kind or not rest):
        raise UnknownModelError(
            f"There is no target {name!r}. Write torchvision:NAME, timm:NAME, open_clip:NAME/PRETRAINED, "
            "module:function, ./file.py:function, or sample."
        )
    if (key or prefix) and not checkpoint:
        raise CheckpointError(
            "--checkpoint-key and --checkpoint-prefix say where in a weights file the weights are: name the file "
            "with --checkpoint FILE."
        )
    # open_clip reads a checkpoint itself: it is that of the whole model, of which the target is a part.
    weights = read_checkpoint(checkpoint, key, prefix) if checkpoint and kind != "open_clip" else None
    makers = {"torchvision": _from_torchvision, "timm": _from_timm}
    notes: tuple[str, ...] = ()
    own: OwnCode | None = None
    brought: Preprocess | None
    if kind == "open_clip":
        model, brought, notes = _from_open_clip(rest, checkpoint, key, prefix)
    elif kind in makers:
        model, brought = makers[kind](rest, weights)
    else:
        model, brought, own = _from_function(name if names_function(name) else SAMPLE)
    notes += _in_float32(model)
    if weights is not None:
        notes += load_into(model, weights)
    model = model.eval().requires_grad_(False).cpu()
    chosen, module = chosen_preprocess(preprocess) if preprocess else (brought or imagenet_preprocess(), None)
    identity = {
        "architecture": _architecture(model, own),
        "weights": digest_of_weights(model),
        "preprocess": describe(chosen, module or (own.module if own else None)),
    }
    notes += () if preprocess or brought else (_ASSUMED.format(name=name),)
    return Target(name, model, giving_tensors(chosen, name), identity, notes)


def _in_float32(model: nn.Module) -> tuple[str, ...]:
    """Makes all numbers of a network float32, which every precision starts from; returns what is to be said of it."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            refuse_unusual(name, value, "The network")
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    others = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.dtype != torch.float32)
    if not others:
        return ()
    model.float()
    kinds = ", ".join(f"{count} of {kind}" for kind, count in others.items())
    return (
        f"The network's tensors in other types than float32 ({kinds}, of {len(tensors)}) are converted to it; "
        "--precision says in which type it computes.",
    )


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
    size = sum(tensor.nbytes for tensor in target.model.state_dict().values())
    if not names_function(target.name) or size > LARGEST_BUILT_TWICE:
        return False
    try:
        model, _, _ = _from_function(target.name, seed=1)
    except Exception:
        return False
    _in_float32(model)
    return digest_of_weights(model.cpu()) != target.identity["weights"]


def _from_torchvision(rest: str, weights: Checkpoint | None) -> tuple[nn.Module, Preprocess]:
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


def _fitting(name: str, checkpoint: Checkpoint) -> nn.Module:
    """A torchvision network with as many classes as a checkpoint has (365 for Places)."""
    from torchvision.models import get_model

    # Published weights of these two expect input scaled anew, which torchvision does only when it loads them itself.
    scaled = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = get_model(name, weights=None, **scaled)
    found = checkpoint.weights_for(model.state_dict().keys()).weights
    # The classifier is the bias, of all that are there, whose length changes with the number of classes.
    with torch.device("meta"):
        other = get_model(name, weights=None, num_classes=2).state_dict()
    for key, tensor in model.state_dict().items():
        is_classifier = tensor.ndim == 1 and tensor.shape != other[key].shape
        if is_classifier and key in found and found[key].shape != tensor.shape:
            fitting: nn.Module = get_model(name, weights=None, num_classes=len(found[key]), **scaled)
            return fitting
    return model


def _from_timm(rest: str, weights: Checkpoint | None) -> tuple[nn.Module, Preprocess]:
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


def _from_open_clip(
    rest: str, checkpoint: str | None, key: str | None, prefix: str | None
) -> tuple[nn.Module, Preprocess, tuple[str, ...]]:
    """The image encoder of a CLIP model."""
    from tasks.models.clip import create_clip

    model, preprocess, notes = create_clip(rest, checkpoint, key, prefix)
    visual: nn.Module = model.visual
    return visual, preprocess, notes


def _from_function(target: str, seed: int = 0) -> tuple[nn.Module, Preprocess | None, OwnCode]:
    """`module:function` or `file.py:function` of the user's own.

    What it draws at random is the same in every process.
    """
    with loading(only_tensors=False), seeded(seed):
        module = imported(target)
        make = function_in(module, target)
        model, preprocess = network_and_preprocessing(make(), target)
    return model, preprocess, OwnCode(module.__name__, target.rpartition(":")[2])
