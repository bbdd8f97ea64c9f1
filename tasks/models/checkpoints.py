"""Weights from a file: safetensors, or a torch file read without running any code in it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn

from storage.errors import RemoteError
from storage.files import split
from tasks.models.errors import CheckpointError, first_lines

#: Levels under which training frameworks keep the weights of a network.
WEIGHT_LEVELS = ("state_dict", "model_state_dict", "model", "net", "ema_state_dict")
#: What wrappers (DataParallel, Lightning, compile) put before every name.
WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")
#: What to do with a file that is refused because it holds more than tensors.
CONVERT = (
    "Files that would run code when loaded are refused: where you trust it, load it once yourself with "
    "torch.load(weights_only=False) and save model.state_dict() with safetensors.torch.save_file."
)
#: What PyTorch reads to load nothing but tensors, whatever a library asks it for. (torchvision asks for all.)
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_loading = RLock()
#: Names shown of those that do not fit.
SHOWN = 5


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
            raise CheckpointError(f"Weights cannot be read ({first_lines(error)}). {CONVERT}") from error
        finally:
            os.environ.pop(FORCE, None)
            if before is not None:
                os.environ[FORCE] = before


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """The tensors of a weights file, at a path or fsspec URL, by name.

    Raises `CheckpointError` saying why it cannot be read.
    """
    folder, name = split(path)
    if not folder.is_file(name):
        raise CheckpointError(f"There is no checkpoint file {path}.")
    try:
        if name.endswith(".safetensors"):
            # Of a file on this machine, tensors are mapped and not read.
            return load_file(folder.path(name)) if folder.is_local else load(folder.read(name))
        file = folder.path(name) if folder.is_local else io.BytesIO(folder.read(name))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except RemoteError:
        raise
    except Exception as error:
        # A torn or foreign file gives IndexError, struct.error, UnpicklingError, SafetensorError and more.
        raise CheckpointError(f"{path} cannot be read as weights ({first_lines(error)}). {CONVERT}") from error
    return _weights_in(content, path)


def load_into(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Loads weights that fit the model name by name. Raises `CheckpointError` naming those that do not."""
    wanted = model.state_dict()
    weights = unwrapped(weights, wanted)
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in wanted]
    misshapen = [
        f"{name} {list(weights[name].shape)} for {list(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not fit the network, which has {len(wanted)} tensors; the file has {len(weights)}. "
            f"{'; '.join(problems)}."
        )
    model.load_state_dict(dict(weights), strict=False)  # only num_batches_tracked may be missing here


def digest_of_weights(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors: the same weights in any file give the same."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # bfloat16 has no numpy type, so every tensor goes as plain bytes.
        sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def _weights_in(content: Any, path: str) -> dict[str, Tensor]:
    for level in WEIGHT_LEVELS:
        if isinstance(content, Mapping) and isinstance(content.get(level), Mapping):
            content = content[level]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds {type(content).__name__}, not a state dict of tensors by name.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors; at its top are {', '.join(map(str, list(content)[:SHOWN]))}."
        )
    return tensors


def unwrapped(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names without a prefix that a wrapper put before every one of them."""
    for prefix in WRAPPER_PREFIXES:
        wrapped = all(name.startswith(prefix) for name in weights)
        if wrapped and not any(name.startswith(prefix) for name in wanted):
            return unwrapped({name.removeprefix(prefix): tensor for name, tensor in weights.items()}, wanted)
    return weights
