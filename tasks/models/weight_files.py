"""What weights files hold: safetensors, torch files and TorchScript archives, whole or in shards.

Nothing of a file is run: safetensors hold only tensors, torch files are read with `weights_only`, and of TorchScript
archives only the tensors are read.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath
from typing import IO, Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from storage.errors import RemoteError
from storage.files import Folder, split
from tasks.models.errors import CheckpointError, error_with_kind, first_lines
from tasks.models.torchscript import is_torchscript, read_torchscript

#: What to do with a file that is refused because it holds more than tensors.
CONVERT = (
    "Files that would run code when loaded are refused. Where you trust it, save its weights alone, in two lines of "
    "Python: content = torch.load({file!r}, map_location='cpu', weights_only=False), and safetensors.torch.save_file("
    "{{name: tensor.contiguous() for name, tensor in content['state_dict'].items()}}, {new!r}). (Where the network "
    "itself was saved, content.state_dict().items().)"
)
#: The commands that take the weights out of archives which are not read here.
_SAVE = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file({{n: t.contiguous().clone() for n, t in "
)
CONVERT_SCRIPT = _SAVE + "torch.jit.load({file!r}, map_location='cpu').state_dict().items()}}, {new!r})\""
CONVERT_EXPORT = _SAVE + 'torch.export.load({file!r}).state_dict.items()}}, {new!r})"'
#: The type that torch refuses to build, in its message.
_GLOBAL = re.compile(r"GLOBAL (\S+)")
#: A file of several that hold the weights of one network, as Hugging Face names them.
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")
#: Types shown of those that a file wants to build.
SHOWN = 5


def read_content(path: str) -> Any:
    """What a weights file holds, at a path or fsspec URL: tensors by name, or levels of such.

    Raises `CheckpointError` saying why it cannot be read.
    """
    folder, name = split(path)
    if not folder.is_file(name):
        raise CheckpointError(f"There is no checkpoint file {path}.")
    if name.endswith(".index.json"):
        return _sharded(folder, name, path)
    return _content(folder, name, path)


def is_script_file(path: str) -> bool:
    """True for a TorchScript archive of this machine."""
    return is_torchscript(_members(path))


def shard_hint(path: str) -> str:
    """What to type instead of one of the files that hold a network's weights together; nothing for another file."""
    if not _SHARD.search(path):
        return ""
    return f" {PurePath(path).name} holds a part of the weights: give the file that ends in .index.json instead."


def _sharded(folder: Folder, name: str, path: str) -> OrderedDict[str, Tensor]:
    """All weights that an index lists, from the files beside it."""
    places = _places(folder.read(name), path)
    shards = sorted(set(places.values()))
    absent = [shard for shard in shards if not folder.is_file(shard)]
    if absent:
        raise CheckpointError(
            f"{len(absent)} of the {len(shards)} files that {path} lists are not beside it: "
            f"{', '.join(absent[:SHOWN])}{' …' if len(absent) > SHOWN else ''}."
        )
    found: OrderedDict[str, Tensor] = OrderedDict()
    for shard in shards:
        content = _content(folder, shard, folder.path(shard))
        wanted = [tensor for tensor, place in places.items() if place == shard]
        lacking = [tensor for tensor in wanted if not isinstance(content, Mapping) or tensor not in content]
        if lacking:
            raise CheckpointError(
                f"{shard} lacks {len(lacking)} of the {len(wanted)} tensors that {path} says it holds: "
                f"{', '.join(lacking[:SHOWN])}."
            )
        found.update((tensor, content[tensor]) for tensor in wanted)
    return found


def _places(index: bytes, path: str) -> dict[str, str]:
    """The file of each tensor, by an index."""
    try:
        places = json.loads(index)["weight_map"]
        # A name with a folder could lead anywhere on the machine.
        is_index = bool(places) and all(PurePath(file).name == file for file in places.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        is_index = False
    if not is_index:
        raise CheckpointError(
            f"{path} is no index of weights files: JSON with a weight_map with the file of each tensor, beside it."
        )
    return {str(tensor): file for tensor, file in places.items()}


def _content(folder: Folder, name: str, path: str) -> Any:
    try:
        if name.endswith(".safetensors"):
            # Of a file on this machine, tensors are mapped and not read.
            return load_file(folder.path(name)) if folder.is_local else load(folder.read(name))
        file = folder.path(name) if folder.is_local else io.BytesIO(folder.read(name))
        members = _members(file)
        if is_torchscript(members):
            return _script(file, path)
        if _is_exported(name, members):
            raise CheckpointError(
                f"{path} is a program of torch.export, not a file of weights. Take its weights out: "
                f"{told(CONVERT_EXPORT, path)}"
            )
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RemoteError, CheckpointError):
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(refusal(path, error)) from error
    except Exception as error:
        # A torn or foreign file gives IndexError, struct.error, SafetensorError and more.
        raise CheckpointError(
            f"{path} cannot be read as weights ({first_lines(error)}): it is damaged, or no weights file."
        ) from error


def _script(file: IO[bytes] | str, path: str) -> OrderedDict[str, Tensor]:
    try:
        return read_torchscript(file)
    except Exception as error:  # a damaged archive gives errors of zipfile, pickle and torch
        raise CheckpointError(
            f"{path} is a TorchScript archive whose weights cannot be read without running it "
            f"({error_with_kind(error)}). Where you trust it, take them out yourself: {told(CONVERT_SCRIPT, path)}"
        ) from error


def told(command: str, path: str) -> str:
    """A command with the names of the file and of the one to make."""
    return command.format(file=path, new=f"{PurePath(path).stem}.safetensors")


def refusal(path: str, error: BaseException) -> str:
    """Why a pickle is refused: the types that it would build, and the way out."""
    kinds = _unsafe_types(path) or _GLOBAL.findall(str(error))[:1]
    wants = (
        f"it would build {', '.join(kinds[:SHOWN])}{' …' if len(kinds) > SHOWN else ''}"
        if kinds
        else first_lines(error)
    )
    return f"{path} cannot be read as weights ({wants}). {told(CONVERT, path)}"


def _unsafe_types(path: str) -> list[str]:
    """Qualified names of what a torch file wants to build beside tensors; none where that cannot be found out."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file of the old format or on another machine, or a damaged one
        return []


def _members(file: IO[bytes] | str) -> list[str]:
    """Names of the members of a zip file; none of another file."""
    is_zip = zipfile.is_zipfile(file)
    if not isinstance(file, str):
        file.seek(0)
    if not is_zip:
        return []
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if not isinstance(file, str):
        file.seek(0)
    return names


def _is_exported(name: str, members: list[str]) -> bool:
    return name.endswith(".pt2") or any(
        member.endswith(("archive_format", "exported_program.json")) for member in members
    )
