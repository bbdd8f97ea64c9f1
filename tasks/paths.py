"""Paths among parameters: which they are, and what they mean where another folder is the working directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.parameters import target_file

#: Parameters that are paths, or patterns of them, unless they have a colon (torchvision:CIFAR10/test).
PATHS = (
    *("probe", "store", "out", "publish", "checkpoint", "clip_checkpoint"),
    *("image_embeddings", "concept_embeddings"),
)
#: Those that are paths where such a file is, and else names.
PATHS_OR_NAMES = ("clip", "concepts", "truth")


def seen_from(
    folders: Sequence[Path], parameters: Mapping[str, Any], moves: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Parameters whose paths mean everywhere what they mean where one of `folders` is the working directory.

    Of several, the first in which there is such a file; where none has it, the first. A whole path that is not there
    any more is looked for where folders were moved to, `(before, now)`.
    """

    def absolute(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [absolute(name, one) for one in value]
        if not isinstance(value, str):
            return value
        paths = _candidates(folders, Path(value).expanduser(), moves)
        if ":" in value and ("://" in value or not any(path.exists() for path in paths)):
            return value
        if name in PATHS:
            return str(next((path for path in paths if path.exists()), paths[0]))
        return str(next((path for path in paths if path.suffix and path.is_file()), value))

    names = PATHS + PATHS_OR_NAMES
    found = {name: absolute(name, value) if name in names else value for name, value in parameters.items()}
    if isinstance(target := found.get("target"), str) and (file := target_file(target)):
        paths = _candidates(folders, Path(file[0]).expanduser(), moves)
        found["target"] = f"{next((path for path in paths if path.exists()), paths[0])}:{file[1]}"
    return found


def _candidates(folders: Sequence[Path], path: Path, moves: Sequence[tuple[str, str]]) -> list[Path]:
    """Where a path may lead to, what it says itself before what is guessed by moves."""
    given = list(dict.fromkeys(folder / path for folder in folders))
    moved = [
        Path(now) / one.relative_to(before) for one in given for before, now in moves if one.is_relative_to(before)
    ]
    return [*given, *moved]
