"""Versions of libraries whose code makes numbers."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable

#: Libraries of networks and preprocessing, with the names they are installed by. Their releases change what a network
#: of one name computes (torchvision's resizing smooths since 0.17), so another version makes other recordings.
LIBRARIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open_clip_torch",
    "transformers": "transformers",
}
#: Packages whose releases change numbers in the last digits at most, as another CPU does: a network that is all in
#: its weights and the user's code is the same network with the next torch.
NO_MATTER = frozenset({"torch", "numpy", "PIL"})


def versions(packages: Iterable[str]) -> list[str]:
    """Packages and their versions, sorted; without those that do not matter, and those that are not installed.

    The part of a version after + is left out: it says for which device a package was built.
    """
    found = []
    for package in sorted(set(packages) - NO_MATTER - sys.stdlib_module_names):
        version = _version(package)
        if version is not None:
            found.append(f"{package} {version.partition('+')[0]}")
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(LIBRARIES.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        said = getattr(sys.modules.get(package), "__version__", None)
        return said if isinstance(said, str) else None
