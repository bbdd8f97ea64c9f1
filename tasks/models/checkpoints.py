"""Weights of files into networks: read without running code, and fitted as the network itself takes them."""

from __future__ import annotations

import copy
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from tasks.models.choosing import EXTRA_STATE, SHOWN, Checkpoint, Chosen, Weights
from tasks.models.errors import CheckpointError, error_with_kind
from tasks.models.weight_files import read_content, refusal, shard_hint

#: What PyTorch reads to load nothing but tensors, whatever a library asks it for. (torchvision asks for all.)
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_loading = RLock()
#: A tensor of another shape, in the message of `load_state_dict`.
_MISSHAPEN = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((\[.*?\])\) from checkpoint, "
    r"the shape in current model is torch\.Size\((\[.*?\])\)"
)


@contextmanager
def loading(*, only_tensors: bool = True) -> Iterator[None]:
    """One network is loaded at a time; what a library loads inside the `with` runs no code of a file.

    A user's own function may load what it likes: its code is trusted, and so is what it trusts.
    """
    with _loading:
        before = os.environ.get(FORCE)
        if only_tensors:
            os.environ[FORCE] = "1"
        try:
            yield
        except pickle.UnpicklingError as error:
            if not only_tensors:
                raise
            raise CheckpointError(refusal("A file of weights", error)) from error
        finally:
            os.environ.pop(FORCE, None)
            if before is not None:
                os.environ[FORCE] = before


def read_checkpoint(path: str, key: str | None = None, prefix: str | None = None) -> Checkpoint:
    """A weights file, at a path or fsspec URL; `key` and `prefix` say where in it the weights are.

    Raises `CheckpointError` saying why it cannot be read, or what it holds instead of weights.
    """
    checkpoint = Checkpoint(path, read_content(path), key, prefix)
    for candidate in checkpoint.candidates():
        for name, value in candidate.weights.items():
            if isinstance(value, Tensor):
                refuse_unusual(name, value, path)
    return checkpoint


def load_into(model: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Loads the weights of a file that fit the model; returns what was chosen without being asked.

    What fits is what the model's own `load_state_dict` takes, with the names of older versions that it knows. Raises
    `CheckpointError` naming what does not fit; the model is then as it was, if it can be copied.
    """
    wanted = model.state_dict()
    chosen = checkpoint.weights_for(wanted.keys())
    weights, notes = _usable(chosen, model, wanted)
    fit = _fit(_empty_copy(model), weights)
    if not hasattr(weights, "_metadata") and not fit.is_whole:
        # A file without the versions of modules is taken for one of today where it does not fit as an old one.
        weights._metadata = getattr(wanted, "_metadata", {})  # type: ignore[attr-defined]
        fit = min(fit, _fit(_empty_copy(model), weights), key=lambda one: one.num_problems)
    absent = _absent_head(model, fit) if chosen.is_part else ()
    if not fit.is_whole and not absent:
        closest = checkpoint.closest(wanted.keys())
        raise CheckpointError(f"{_misfit(chosen, fit, len(wanted))} {closest}{shard_hint(checkpoint.path)}".rstrip())
    unexpected = {name: weights.pop(name) for name in fit.unexpected}
    model.load_state_dict(weights, strict=False)
    for name in absent:
        model.state_dict()[name].zero_()  # or its neurons would say something, and another thing in every process
    return (*chosen.notes, *notes, *_notes_on(fit, absent, tuple(unexpected)))


@dataclass(frozen=True)
class _Fit:
    """What a network's own loading finds wrong with weights."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    #: An error that names no tensor.
    error: str = ""
    #: Modules whose state that is no tensor is missing.
    without_state: tuple[str, ...] = ()

    @property
    def num_problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen) + bool(self.error)

    @property
    def is_whole(self) -> bool:
        return not self.num_problems


def _fit(model: nn.Module, weights: Weights) -> _Fit:
    """What is found wrong when weights are loaded into a copy of a network."""
    found: list[Any] = []

    def keep(module: nn.Module, keys: Any) -> None:
        del module
        found[:] = [keys]

    # Of tensors of another shape there is an error, and the names that are missing are in no message of it.
    handle = model.register_load_state_dict_post_hook(keep)  # type: ignore[no-untyped-call]
    error, misshapen = "", []
    try:
        with warnings.catch_warnings():
            # Into a copy without values nothing is copied, which is meant.
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            found[:] = [model.load_state_dict(weights, strict=False)]
    except Exception as failed:  # a network's own loading may raise anything
        misshapen = [f"{name} {there} for {here}" for name, there, here in _MISSHAPEN.findall(str(failed))]
        error = "" if misshapen else error_with_kind(failed)
    finally:
        handle.remove()
    missing, unexpected = found[0] if found else ((), ())
    # torch counts batches since 0.4.1; files from before, and of frozen layers, lack the counters.
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    without_state = tuple(name for name in lacking if name.rpartition(".")[2] == EXTRA_STATE)
    lacking = [name for name in lacking if name not in without_state]
    return _Fit(tuple(lacking), tuple(unexpected), tuple(misshapen), error, without_state)


def _empty_copy(model: nn.Module) -> nn.Module:
    """A copy of a network with shapes and no values, to try weights on; the network itself where none can be made."""
    try:
        empty: dict[int, Any] = {
            id(one): nn.Parameter(one.to("meta"), one.requires_grad) for one in model.parameters()
        }
        empty |= {id(one): one.to("meta") for one in model.buffers()}
        return copy.deepcopy(model, empty)
    except Exception:  # weight_norm of old makes tensors that cannot be copied, and modules may hold anything
        return model


def _usable(chosen: Chosen, model: nn.Module, wanted: dict[str, Any]) -> tuple[Weights, list[str]]:
    """The weights without what is no weight of this network, and what is to be said of that and of their types."""
    constant = [name for name in chosen.weights if name not in wanted and _is_constant(model, name)]
    weights: Weights = OrderedDict((name, of) for name, of in chosen.weights.items() if name not in constant)
    if hasattr(chosen.weights, "_metadata"):
        weights._metadata = chosen.weights._metadata  # type: ignore[attr-defined]
    both = [name for name in weights if isinstance(weights[name], Tensor) and isinstance(wanted.get(name), Tensor)]
    floating = [name for name in both if wanted[name].is_floating_point()]
    refused = [name for name in floating if not weights[name].is_floating_point()]
    if refused:
        kind = str(weights[refused[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{len(refused)} tensors of {chosen.name} are of type {kind}, and the network's are numbers with a "
            f"fraction: {_some(refused)}. Quantised weights are not taken: give the weights from before."
        )
    others = [name for name in floating if weights[name].dtype != wanted[name].dtype]
    notes = []
    if others:
        kinds = ", ".join(sorted({str(weights[name].dtype).removeprefix("torch.") for name in others}))
        notes.append(
            f"{len(others)} of the {len(weights)} tensors of {chosen.name} are {kinds}: converted to float32."
        )
    if constant:
        notes.append(
            f"{len(constant)} tensors of {chosen.name} are no weights but made by the network: {_some(constant)}."
        )
    return weights, notes


def _is_constant(model: nn.Module, name: str) -> bool:
    """True for a tensor that a network makes itself and keeps out of its state, as a mask of attention."""
    module_name, _, attribute = name.rpartition(".")
    try:
        return isinstance(getattr(model.get_submodule(module_name), attribute, None), Tensor)
    except AttributeError:
        return False


def _absent_head(model: nn.Module, fit: _Fit) -> tuple[str, ...]:
    """Names of the classifier, where it is all that a part of a larger network lacks."""
    names = list(model.state_dict())
    lacking = set(fit.missing)
    if fit.error or fit.misshapen or not lacking or lacking != set(names[-len(lacking) :]):
        return ()
    modules = dict(model.named_modules())
    heads = {name.partition(".")[0] for name in lacking}
    is_linear = all(isinstance(modules[name.rpartition(".")[0]], nn.Linear) for name in lacking)
    is_of_head = all(name.partition(".")[0] in heads for name in fit.unexpected)
    return tuple(sorted(lacking)) if is_linear and is_of_head else ()


def _notes_on(fit: _Fit, absent: Sequence[str], unexpected: Sequence[str]) -> Iterator[str]:
    if absent:
        others = f", which has {_some(unexpected)} instead" if unexpected else ""
        yield (
            f"The file has no weights of the classifier{others}: {_some(absent)} are set to 0, and neurons of that "
            "layer are dead."
        )
    if fit.without_state:
        count = len(fit.without_state)
        yield f"The file lacks the extra state of {count} modules, which keep their own: {_some(fit.without_state)}."


def _misfit(chosen: Chosen, fit: _Fit, num_wanted: int) -> str:
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", fit.missing),
            ("unexpected", fit.unexpected),
            ("of another shape", fit.misshapen),
        )
        if names
    ]
    positions = any("pos" in one.partition(" ")[0] and "embed" in one.partition(" ")[0] for one in fit.misshapen)
    way_out = (
        " The table of positions is that of another image size: name the network of the file's size." * positions
    )
    what = f"{chosen.name} does not fit the network, which has {num_wanted} tensors"
    return (
        f"{what}; the file has {len(chosen.weights)}. "
        f"{'; '.join([*problems, *[fit.error] * bool(fit.error)])}.{way_out}"
    )


def refuse_unusual(name: str, tensor: Tensor, where: str) -> None:
    """Raises `CheckpointError` for a tensor that is not simply numbers in memory."""
    kind = ""
    if tensor.is_quantized:
        kind = "quantised"
    elif tensor.layout != torch.strided:
        kind = f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    elif type(tensor).__name__ == "DTensor":
        kind = "distributed (DTensor)"
    if kind:
        raise CheckpointError(
            f"{where}: the tensor {name} is {kind}, which is not taken. Give the network's weights as plain tensors: "
            "dequantised (tensor.dequantize()), dense (tensor.to_dense()) or gathered (tensor.full_tensor())."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
