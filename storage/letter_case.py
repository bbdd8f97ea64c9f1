"""File systems that take two names for one where only upper and lower case differ, as those of macOS mostly do."""

from __future__ import annotations

from collections.abc import Iterable

from storage.errors import ForeignError
from storage.files import Folder


def ignores_case(folder: Folder, name: str) -> bool:
    """True if the folder finds its file `name` by the same name in upper case. Object stores never do."""
    return folder.is_local and folder.is_file(name.upper())


def refuse_twins(folder: Folder, layers: Iterable[str], there: Iterable[str], way_out: str) -> None:
    """Raises `ForeignError` where the name of a layer differs by case alone from another, or from what is `there`.

    For a folder of a file system that ignores case: the files of both would be the same.
    """
    found: dict[str, str] = {name.lower(): name for name in there}
    for layer in layers:
        other = found.setdefault(layer.lower(), layer)
        if other != layer:
            raise ForeignError(
                f"Layers {other!r} and {layer!r} differ by upper and lower case alone, and the file system of "
                f"{folder.url} takes their files for the same. {way_out}"
            )
