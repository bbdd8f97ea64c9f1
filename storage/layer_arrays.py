"""Which array of a Zarr group is a layer's."""

from __future__ import annotations

import zarr
from zarr.core.sync import sync

from storage.arrays import METADATA, NO_METADATA
from storage.layout import safe


def array_name(group: zarr.Group, layer: str) -> str:
    """The name of a layer's array, made or not: the layer's name as `safe` writes it.

    Older versions gave arrays the layers' own names: where such an array is there, it is the layer's.
    """
    name = safe(layer)
    if name == layer or _is_there(group, name) or not _is_of(group, layer):
        return name
    return layer


def _is_there(group: zarr.Group, name: str) -> bool:
    return bool(sync((group.store_path / f"{name}/{METADATA}").exists()))


def _is_of(group: zarr.Group, layer: str) -> bool:
    """True if the array that has the layer's own name for its path says that it is the layer's."""
    try:
        found = group[layer]
    except (*NO_METADATA, OSError):
        return False  # nothing, or no name that Zarr takes
    return isinstance(found, zarr.Array) and found.attrs.get("layer") == layer
