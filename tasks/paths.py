"""Paths among parameters: which they are, and what they mean where another folder is the working directory."""

from __future__ import annotations

from collections.abc import Mapping
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


def seen_from(folder: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters whose paths mean everywhere what they mean where `folder` is the working directory."""

    def absolute(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [absolute(name, one) for one in value]
        if not isinstance(value, str) or ":" in value:
            return value
        path = folder / Path(value).expanduser()
        return str(path) if name in PATHS or (path.suffix and path.is_file()) else value

    names = PATHS + PATHS_OR_NAMES
    found = {name: absolute(name, value) if name in names else value for name, value in parameters.items()}
    if isinstance(target := found.get("target"), str) and (file := target_file(target)):
        found["target"] = f"{folder / Path(file[0]).expanduser()}:{file[1]}"
    return found
