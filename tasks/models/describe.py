"""Text that says what an object computes: the same in every process, another when a value or a function changes.

Printed forms say less and more than that. They cut tensors short, and hold addresses of memory, orders of sets and
absolute paths.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial, singledispatchmethod
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.models.describe_parts import (
    attributes,
    code_digest,
    content,
    global_names,
    is_data,
    is_plain,
    plain_key,
    plain_repr,
    position,
    tensor_digest,
    traced_code,
    without_folder,
)
from tasks.models.libraries import LIBRARIES, versions
from tasks.models.user_code import OURS, imports_of, is_users, source_digest

#: Objects of these modules say nothing of what a network computes, and differ from process to process.
OPAQUE = frozenset({"logging", "threading", "_thread", "io", "_io", "socket", "subprocess", "weakref", "random"})
#: Attributes of library networks that say where their weights came from: the weights have a digest of their own.
ORIGINS = frozenset({"pretrained_cfg", "default_cfg", "name_or_path", "_name_or_path", "_commit_hash"})
#: Attributes that every module has, described by themselves.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
#: Hooks that change what a module computes.
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
#: Attributes of traced networks that their code says too.
GRAPH_ATTRIBUTES = frozenset({"_graph", "_code", "_codegen", "_tracer_cls", "_tracer_extras", "meta"})
#: Objects within objects that are described in place; those further in come after, so that no stack overflows.
MAX_DEPTH = 40


class Description:
    """Describes objects one after another, each once, and keeps the names of the modules that their code is in."""

    def __init__(self, weighed: Iterable[Tensor] = (), root: str | None = None) -> None:
        """`weighed` are tensors that another digest is of; `root` is the module that a user named."""
        self.modules: set[str] = set()
        self._root = root
        self._kept: list[object] = []  # alive, for another object may get the id of one that is gone
        self._weighed = {id(tensor): tensor for tensor in weighed}
        self._numbers: dict[int, int] = {}
        self._later: deque[tuple[int, object]] = deque()
        self._depth = 0

    def text(self, value: object) -> str:
        """The description of an object and of all that it holds."""
        parts = [self._say(value)]
        while self._later:
            number, deep = self._later.popleft()
            self._numbers.pop(id(deep), None)
            parts.append(f"@{number} = {self._say(deep)}")
        return "\n".join(parts)

    def code(self) -> str:
        """The digest of the user's own code in what was described, and versions of the libraries."""
        tops = {name.partition(".")[0] for name in self.modules} - OURS
        own = {name.partition(".")[0] for name in self.modules if self._is_users(name)}
        used = imports_of(self.modules, self._root) & LIBRARIES.keys()
        digest = source_digest(self.modules, self._root)
        return " ".join([*([digest] if digest else []), *versions((tops - own) | used)])

    def _say(self, value: object) -> str:
        if self._depth >= MAX_DEPTH and not isinstance(value, bool | int | float | str | bytes | None):
            number = self._numbers.get(id(value))
            if number is None:
                number = self._number(value)
                self._later.append((number, value))
            return f"@{number}"
        self._depth += 1
        try:
            return self._described(value)
        finally:
            self._depth -= 1

    def _number(self, value: object) -> int:
        self._kept.append(value)
        return self._numbers.setdefault(id(value), len(self._kept))

    def _once(self, value: object, name: str, parts: Callable[[], Iterator[str]]) -> str:
        """A description with its parts the first time, and a reference to it from then on."""
        if id(value) in self._numbers:
            return f"@{self._numbers[id(value)]}"
        self._number(value)
        return f"{name}({', '.join(parts())})"

    def _named(self, items: Mapping[Any, object]) -> Iterator[str]:
        for name in sorted(items, key=str):
            yield f"{name}={self._say(items[name])}"

    # ------------------------------------------------------------------------------------------- kinds of objects

    @singledispatchmethod
    def _described(self, value: object) -> str:
        cls = type(value)
        name = self._described(cls)
        if cls.__module__.partition(".")[0] in OPAQUE:
            return name
        if hasattr(cls, "__array_interface__"):  # a picture of PIL
            return f"{name}({self._array(np.asarray(value))})"
        if hasattr(value, "__dict__"):
            return self._once(value, name, lambda: self._named(attributes(value)))
        return self._once(value, name, lambda: self._reduced(value))

    def _reduced(self, value: object) -> Iterator[str]:
        """The parts that pickle would keep of an object without attributes."""
        try:
            reduced: Any = value.__reduce_ex__(4)
        except Exception:  # locks, files, generators: objects of this process
            return
        for part in [reduced] if isinstance(reduced, str) else reduced:
            yield self._say(list(part) if isinstance(part, Iterator) else part)

    @_described.register
    def _(self, value: bool | int | float | complex | bytes | None) -> str:
        return plain_repr(value)

    @_described.register
    def _(self, value: str) -> str:
        return repr(without_folder(str.__str__(value)))

    @_described.register
    def _(self, value: PurePath) -> str:
        return f"path {without_folder(str(value))!r}"

    @_described.register
    def _(self, value: Enum) -> str:
        return f"{self._described(type(value))}.{value.name}"

    @_described.register
    def _(self, value: torch.device | torch.Generator) -> str:
        return type(value).__name__  # that of a GPU on one machine is that of a CPU on another

    @_described.register
    def _(self, value: Tensor) -> str:
        if id(value) in self._weighed:
            return "weights"
        return f"{type(value).__name__}({tensor_digest(value)})"

    @_described.register
    def _(self, value: np.ndarray | np.generic) -> str:
        return self._array(np.asarray(value))

    def _array(self, array: np.ndarray[Any, Any]) -> str:
        if array.dtype.hasobject:
            return f"array{list(array.shape)}{self._say(array.ravel().tolist())}"
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return f"array({array.dtype.str}, {list(array.shape)}, {digest})"

    @_described.register
    def _(self, value: list | tuple) -> str:  # type: ignore[type-arg]
        if all(is_plain(item) for item in value):  # by value: equal texts and tuples may or may not be one object
            return f"{self._kind(value)}[{', '.join(map(self._say, value))}]"
        return self._once(value, self._kind(value), lambda: map(self._say, value))

    @_described.register
    def _(self, value: set | frozenset) -> str:  # type: ignore[type-arg]
        return f"set[{', '.join(sorted(map(self._say, sorted(value, key=plain_key))))}]"

    @_described.register
    def _(self, value: Mapping) -> str:  # type: ignore[type-arg]
        def items() -> Iterator[str]:
            for key in sorted(value, key=plain_key):
                yield f"{self._say(key)}: {self._say(value[key])}"

        return self._once(value, self._kind(value), items)

    def _kind(self, value: object) -> str:
        cls = type(value)
        return cls.__name__ if cls.__module__ in ("builtins", "collections") else self._described(cls)

    @_described.register
    def _(self, value: ModuleType) -> str:
        return f"module {value.__name__}"

    @_described.register
    def _(self, value: type) -> str:
        self.modules.add(value.__module__)
        name = f"{value.__module__}.{value.__qualname__}"
        if id(value) in self._numbers or not self._is_users(value.__module__):
            return name
        self._number(value)
        held = ", ".join(self._of_class(value))
        return f"{name}<{held}>" if held else name

    def _of_class(self, cls: type) -> Iterator[str]:
        """The values that a class of the user's and those it derives from hold beside their code."""
        for base in cls.__mro__:
            if base is not cls and self._is_users(base.__module__):
                yield self._described(base)
        for name, value in sorted(vars(cls).items()):
            function = getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                yield from self._globals(function)
            elif not name.startswith("__") and is_data(value):
                yield f"{name}={self._say(value)}"

    @_described.register
    def _(self, value: partial) -> str:  # type: ignore[type-arg]
        parts = (value.func, list(value.args), dict(value.keywords))
        return self._once(value, "partial", lambda: map(self._say, parts))

    @_described.register
    def _(self, value: MethodType) -> str:
        return f"method({self._say(value.__func__)}, {self._say(value.__self__)})"

    @_described.register
    def _(self, value: BuiltinFunctionType) -> str:
        owner = value.__self__
        bound = "" if owner is None or isinstance(owner, ModuleType) else f" of {self._say(owner)}"
        return f"builtin {value.__module__}.{value.__qualname__}{bound}"

    @_described.register
    def _(self, value: FunctionType) -> str:
        module = value.__module__ or ""
        self.modules.add(module)
        return self._once(value, f"function {module}.{value.__qualname__}", lambda: self._of_function(value))

    def _of_function(self, function: FunctionType) -> Iterator[str]:
        own = self._is_users(function.__module__ or "")
        if not Path(function.__code__.co_filename).is_file():
            yield f"code={code_digest(function.__code__)}"
        elif own:
            yield f"at={position(function.__code__)}"
        if function.__defaults__:
            yield f"defaults={self._say(list(function.__defaults__))}"
        yield from self._named(function.__kwdefaults__ or {})
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            yield f"{name}={self._say(content(cell))}"
        yield from self._named(vars(function))
        if own:
            yield from self._globals(function)

    def _globals(self, function: FunctionType) -> Iterator[str]:
        """The values of the user's module that a function uses: a file may have been read into them."""
        for name in sorted(global_names(function.__code__)):
            value = function.__globals__.get(name)
            if is_data(value) or (callable(value) and not isinstance(value, type)):
                yield f"{name}={self._say(value)}"

    @_described.register
    def _(self, value: nn.Module) -> str:
        original = getattr(value, "_orig_mod", None)
        if type(value).__name__ == "OptimizedModule" and original is not None:
            return self._say(original)  # compiled, it computes the same
        return self._once(value, self._described(type(value)), lambda: self._of_module(value))

    def _of_module(self, module: nn.Module) -> Iterator[str]:
        left_out = MODULE_ATTRIBUTES | ORIGINS
        if isinstance(module, torch.fx.GraphModule | torch.jit.ScriptModule):
            code, values = traced_code(module)
            yield f"code={code!r}"
            yield from self._named(values)
            left_out |= GRAPH_ATTRIBUTES
        if module.training:
            yield "training"
        if not isinstance(module, torch.jit.ScriptModule):  # whose attributes are objects of C++
            # Private attributes of torch's modules follow from the others, and other versions of torch have others.
            is_torchs = type(module).__module__.partition(".")[0] == "torch"
            own = {name: of for name, of in vars(module).items() if not (is_torchs and name.startswith("_"))}
            yield from self._named({name: of for name, of in own.items() if name not in left_out})
        for name in ("_parameters", "_buffers", "_modules"):  # children in the order in which they may run
            yield from (f"{key}={self._say(of)}" for key, of in getattr(module, name).items() if of is not None)
        for name in HOOKS:
            if hooks := getattr(module, name, None):
                yield f"{name}={self._say(list(hooks.values()))}"

    def _is_users(self, module: str) -> bool:
        return module == self._root or is_users(module, getattr(sys.modules.get(module), "__file__", None))
