"""Networks that a function of the user's own makes: how its module is imported, and what it may return."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tasks.dissection.errors import UnknownNameError
from tasks.models.errors import ModelError, UnknownModelError
from tasks.models.own_modules import look_in, refuse_reserved
from tasks.models.user_code import import_users
from tasks.parameters import target_file


def imported(target: str, what: str = "target") -> ModuleType:
    """The module of `module:function` or `file.py:function`. Raises `UnknownModelError` where there is none."""
    file = target_file(target)
    try:
        return _from_file(file[0]) if file else _by_name(target)
    except ModuleNotFoundError as error:
        here = Path(file[0]).expanduser().absolute().parent if file else Path.cwd()
        raise UnknownModelError(
            f"There is no Python module {error.name!r} to take the {what} {target} from; looked in "
            f"{here} and the installed packages. Library networks are torchvision:NAME, timm:NAME, open_clip:NAME; a "
            "file is ./mynet.py:function."
        ) from error


def function_in(module: ModuleType, target: str) -> Callable[[], Any]:
    """The function that a target names. Raises `ModelError` where there is none, or it takes arguments."""
    name, _, function = target.rpartition(":")
    make = getattr(module, function, None)
    if isinstance(make, nn.Module):
        raise ModelError(
            f"{target} is a network, not a function that returns one. Write def make(): return {function}, and name "
            f"{name}:make."
        )
    if not callable(make):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise UnknownNameError.of("function", function, functions, f"{name} has {', '.join(functions)}.")
    _refuse_arguments(make, target)
    found: Callable[[], Any] = make
    return found


def network_and_preprocessing(made: Any, target: str) -> tuple[nn.Module, Any]:
    """What a function returned: a network, and its preprocessing or None.

    A function may return the network; it and its preprocessing; or it and the preprocessings of training and of
    evaluation, as `open_clip.create_model_and_transforms` does, of which the last is taken. Raises `ModelError`.
    """
    parts = list(made) if isinstance(made, tuple | list) else [made]
    if len(parts) not in (1, 2, 3):
        raise ModelError(f"{target} gave {len(parts)} things ({_kinds(parts)}). {_MAY_RETURN}")
    model = parts[0]
    _refuse_archives(model, target)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{target} gave {_kinds(parts)}, not a torch.nn.Module. {_MAY_RETURN}")
    preprocess = parts[-1] if len(parts) > 1 else None
    if preprocess is not None and not callable(preprocess):
        raise ModelError(f"{target} gave {_kinds(parts)}: the last is no preprocessing. {_MAY_RETURN}")
    return model, preprocess


_MAY_RETURN = (
    "It may return the network; the network and its preprocessing; or the network, the preprocessing of training and "
    "that of evaluation."
)


def _kinds(parts: list[Any]) -> str:
    return ", ".join(type(part).__name__ for part in parts)


def _refuse_archives(model: Any, target: str) -> None:
    """Raises `ModelError` for programs that were compiled ahead: their layers are not called one by one."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{target} gave a TorchScript module, whose layers cannot be watched: it runs as one program. Return the "
            "torch.nn.Module that it was made from, with these weights: net.load_state_dict(script.state_dict())."
        )
    if isinstance(model, torch.export.ExportedProgram):
        raise ModelError(
            f"{target} gave a program of torch.export, whose layers cannot be watched: they are dissolved into one "
            "list of operations. Return the torch.nn.Module that it was made from, with these weights: "
            "net.load_state_dict(program.state_dict)."
        )


def _refuse_arguments(make: Callable[..., Any], target: str) -> None:
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise ModelError(
            f"{target} is called without arguments, and has to be: {error}. Write a function that calls it with them."
        ) from error
    except ValueError:
        return  # a builtin tells nothing of its arguments


def _by_name(target: str) -> ModuleType:
    """A module found from the working directory, as `python -m` would find it.

    Raises `UnknownModelError` where the working directory has a file of this name and another module is found: a
    user's tasks.py, where this project's package `tasks` is imported already.
    """
    name, here = target.partition(":")[0], look_in(Path.cwd())
    try:
        module = import_users(name)
    except ImportError as error:
        refuse_reserved(error.name or "", target)
        raise
    own, found = here / f"{name.replace('.', '/')}.py", getattr(module, "__file__", None)
    if own.is_file() and (found is None or not Path(found).resolve().is_relative_to(here.resolve())):
        raise UnknownModelError(
            f"The Python module {name!r} is {found or 'built into Python'} here, not the file {own}. Name the file: "
            f"--target ./{own.relative_to(here)}:{target.rpartition(':')[2]}."
        )
    return module


def _from_file(file: str) -> ModuleType:
    """A Python file as a module, its folder searched for what it imports, as `python file.py` does.

    Its name among the modules is its own, so that a tasks.py or resnet.py takes no other's place, and says nothing of
    its folder, which identities do not depend on.
    """
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise UnknownModelError(f"There is no file {path} to take the target's function from.")
    look_in(path.parent)
    name = f"file_of_target_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    return import_users(name, path)
