"""Modules of the user's own, found in the working directory as `python -m` would find them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from tasks.models.errors import UnknownModelError
from tasks.models.user_code import OURS

#: The folder that holds them.
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class WorkingFolder:
    """Finds modules in a folder before all others, save those of our own names.

    A finder, not an entry of `sys.path`: that goes on to processes which this one starts, and they look for our
    packages in its first entry first.
    """

    folder: str

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is not None or name in OURS:
            return None
        # With all of the path: a folder without __init__.py counts only where no other has the module.
        return PathFinder.find_spec(name, [self.folder, *sys.path], target)


def look_in(folder: Path) -> Path:
    """Has imports of this process look in a folder before all others; returns it."""
    finder = WorkingFolder(str(folder))
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    # Before other folders of the user's, and before the path.
    kinds = [one is PathFinder or isinstance(one, WorkingFolder) for one in sys.meta_path]
    sys.meta_path.insert(kinds.index(True), finder)
    return folder


def refuse_reserved(name: str, target: str) -> None:
    """Raises `UnknownModelError` where a module that a target needs is the user's, and one of ours was found."""
    package, here = name.partition(".")[0], Path.cwd()
    is_there = any((here / f"{package}{ending}").exists() for ending in ("", ".py"))
    if package in OURS and is_there and here != ROOT:
        raise UnknownModelError(
            f"The target {target} needs the module {name!r} of {here}, and {package!r} is the name of a package "
            "of CLIP-Dissect, which is found in its place. Rename yours."
        )
