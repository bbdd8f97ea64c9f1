"""What tells the weights of networks apart: a digest of their content, whatever file they came in."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.models.errors import ModelError


def digest_of_weights(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors: the same weights in any file give the same.

    State that is no tensor (`get_extra_state`) counts too. Raises `ModelError` where it has no content to compare.
    """
    sha256 = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            sha256.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            sha256.update(_bytes(value))
        else:
            sha256.update(f"{name} {json.dumps(_plain(value, name), sort_keys=True)}\n".encode())
    return sha256.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    # bfloat16 has no numpy type, so every tensor goes as plain bytes.
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _plain(value: Any, name: str) -> Any:
    """The value as JSON, which two values share only where they are equal: kinds are named, and sets are sorted."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | complex | torch.dtype | torch.Size | torch.device):
        return [type(value).__name__, repr(value)]
    if isinstance(value, bytes | bytearray | io.BytesIO):
        data = value.getvalue() if isinstance(value, io.BytesIO) else value
        return ["bytes", hashlib.sha256(data).hexdigest()]
    if isinstance(value, Tensor):
        return ["tensor", str(value.dtype), list(value.shape), hashlib.sha256(_bytes(value)).hexdigest()]
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.asarray(value)
        return ["array", str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        items = [[_plain(key, name), _plain(of, name)] for key, of in value.items()]
        return ["mapping", sorted(items, key=json.dumps)]
    if isinstance(value, Set):
        return ["set", sorted((_plain(one, name) for one in value), key=json.dumps)]
    if isinstance(value, Sequence):
        return ["sequence", [_plain(one, name) for one in value]]
    raise ModelError(
        f"The state {name} of the network holds {type(value).__module__}.{type(value).__qualname__}, whose content "
        "cannot be told apart from another's. Let get_extra_state return numbers, texts, bytes, tensors, or lists "
        "and dicts of those."
    )
