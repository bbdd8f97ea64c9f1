"""The user's own code: which modules a function of theirs runs, what names their source, and which were edited since.

A module is the user's own unless it is part of Python, of an installed package, or of this project. Modules are found
by reading imports, wherever in the source they stand: so every process finds the same, whatever it has imported.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from tasks.models.errors import ModelError
from tasks.models.source_imports import imports, with_packages

#: Packages of this project. Their results are named by versions; a function in one of them is named by its module.
#: The working directory is not asked for them: many projects have a `tasks.py`.
OURS = frozenset({"flows", "tasks", "storage"})
#: Folders of installed packages.
INSTALLED = frozenset({"site-packages", "dist-packages"})
#: Until this moment, what this process imported is taken to be what the file holds.
_STARTED = time.time()
#: Digests of the sources that this process ran, by module: those that were imported since the finder is installed.
_ran: dict[str, str] = {}


class _SourceLoader(SourceFileLoader):
    """Runs the source of a module as it is at that moment, and keeps its digest.

    Python would run compiled code of an older source that has the same size and was written in the same second.
    """

    def exec_module(self, module: ModuleType) -> None:
        """Runs the source in the namespace of the module."""
        source = self.get_data(self.path)
        _ran[module.__name__] = _sha256(source)
        code: CodeType = self.source_to_code(source, self.path)
        exec(code, module.__dict__)


class _Finder(MetaPathFinder):
    """Has the user's own modules loaded by `_SourceLoader`; all else is loaded as it would be."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as the other finders find it."""
        spec = _search(fullname, path, target)
        if spec and type(spec.loader) is SourceFileLoader and is_users(fullname, spec.origin):
            spec.loader = _SourceLoader(fullname, spec.loader.path)
        return spec


_finder = _Finder()


def import_users(name: str, file: Path | None = None) -> ModuleType:
    """Imports a module of the user's; anew where this process has imported code that was edited since.

    `file` is run as the module, in place of what is found by name.

    Raises `ModelError` where edited code cannot be imported a second time, and whatever the import raises.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    importlib.invalidate_caches()
    modules = users_modules([name], name)
    edited = sorted(module for module in modules if _is_stale(module))
    _forget(modules if edited else [])
    try:
        module = _run_file(name, file) if file else importlib.import_module(name)
    except Exception as error:
        if not edited:
            raise
        raise ModelError(
            f"The code of {', '.join(edited)} was edited since this process imported it, and importing {name} once "
            f"more fails ({type(error).__name__}: {error}). Mend the code, or restart the process."
        ) from error
    for other, digest in users_modules([name], name).items():
        if other in sys.modules:
            _ran.setdefault(other, digest)  # one that was imported before the finder was there
    return module


def _run_file(name: str, file: Path) -> ModuleType:
    spec = spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    assert spec is not None and spec.loader is not None  # it is given
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def users_modules(names: Iterable[str], root: str | None = None) -> dict[str, str]:
    """Digests of the user's own modules among `names` and of all that they import, by name.

    `root` is the module that the user named, and the package it is in: these are the user's own wherever they lie.
    """
    found: dict[str, str] = {}
    waiting = [part for name in names for part in with_packages(name)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        file, is_package = _file_of(name)
        if file is None or not (is_users(name, file) or _belongs_to(name, root)):
            continue
        source = _read(file)
        found[name] = _ran.get(name, _sha256(source)) if name in sys.modules else _sha256(source)
        waiting += [part for other in imports(source, name, is_package) for part in with_packages(other)]
    return found


def source_digest(names: Iterable[str], root: str | None = None) -> str:
    """SHA-256 of the user's own code among `names` and of all that it imports, "" where there is none.

    It is of names and contents of modules, not of where they lie: machines with the code in other folders agree.
    """
    modules = users_modules(names, root)
    if not modules:
        return ""
    if root is not None and list(modules) == [root]:
        return modules[root]
    return _sha256("\n".join(f"{name} {digest}" for name, digest in sorted(modules.items())).encode())


def is_users(name: str, file: str | None) -> bool:
    """True if a module in this file is the user's own."""
    top = name.partition(".")[0]
    if file is None or top in OURS or top in sys.stdlib_module_names:
        return False
    path = Path(file)
    return INSTALLED.isdisjoint(path.parts) and not any(path.is_relative_to(folder) for folder in _python_folders())


def imports_of(names: Iterable[str], root: str | None = None) -> set[str]:
    """Names of the top-level packages that the user's own code imports."""
    tops = set()
    for name in users_modules(names, root):
        file, is_package = _file_of(name)
        if file is not None:
            tops |= {other.partition(".")[0] for other in imports(_read(file), name, is_package)}
    return tops


def _belongs_to(name: str, root: str | None) -> bool:
    """True if a module is the named one, or of its installed package; of this project's packages, only the former."""
    if root is None or name == root:
        return name == root
    top = root.partition(".")[0]
    return top not in OURS and name.partition(".")[0] == top


def _is_stale(name: str) -> bool:
    """True if this process has imported something else than the module's file holds now."""
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if loaded is None or file is None or name.partition(".")[0] in OURS or name == "__main__":
        return False
    if is_users(name, file) and _is_elsewhere(name, file):
        return True  # the working directory is another one now, with a module of that name
    if not Path(file).is_file():
        return False
    if name in _ran:
        return _ran[name] != _sha256(_read(file))
    return Path(file).stat().st_mtime > _STARTED


def _is_elsewhere(name: str, file: str) -> bool:
    parent = sys.modules.get(name.rpartition(".")[0])
    spec = _search(name, getattr(parent, "__path__", None))
    return bool(spec and spec.has_location and os.path.realpath(str(spec.origin)) != os.path.realpath(file))


def _forget(modules: Iterable[str]) -> None:
    """Removes modules, and all others of the user's in their packages, which hold what was imported before."""
    tops = {name.partition(".")[0] for name in modules} - OURS
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in tops and (name in modules or is_users(name, getattr(module, "__file__", None))):
            sys.modules.pop(name, None)
            _ran.pop(name, None)


def _file_of(name: str) -> tuple[str | None, bool]:
    """The file of a module, imported or not, and True if it is a package. Imports nothing."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None), hasattr(loaded, "__path__")
    locations = _locations(name.rpartition(".")[0])
    spec = None if locations is not None and not locations else _search(name, locations)
    if spec is None:
        return None, False
    return (spec.origin if spec.has_location else None), spec.submodule_search_locations is not None


def _locations(package: str) -> list[str] | None:
    """Folders of a package's modules, none where it is no package; None for modules that are in no package."""
    if not package:
        return None
    loaded = sys.modules.get(package)
    if loaded is not None:
        return list(getattr(loaded, "__path__", []))
    above = _locations(package.rpartition(".")[0])
    spec = None if above is not None and not above else _search(package, above)
    return list(spec.submodule_search_locations or []) if spec else []


def _search(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not _finder and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
    return None


@lru_cache(maxsize=1)
def _python_folders() -> tuple[str, ...]:
    return tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:  # in a zip file, or removed
        return b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
