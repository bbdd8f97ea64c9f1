"""Bundles: a few named arrays that belong together, as one file that is there whole or not at all.

For what one task leaves to another; what users read is Zarr or Parquet. A bundle is a SHA-256 and safetensors, not
`.npz`: numpy parses its headers with `ast`, which in Python 3.11 fails now and then where several threads do.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.errors import DamagedError
from storage.files import Folder, Written

SUFFIX = ".bundle"
DIGEST_BYTES = hashlib.sha256().digest_size

Arrays = dict[str, npt.NDArray[Any]]


def write_bundle(folder: Folder, name: str, arrays: Arrays) -> Written:
    """Writes arrays of numbers under their names; the same arrays give the same bytes."""
    data = save(arrays)
    return folder.write(name + SUFFIX, hashlib.sha256(data).digest() + data)


def read_bundle(folder: Folder, name: str) -> Arrays:
    """The arrays of a bundle. Raises `DamagedError` where it is torn or gone."""
    file = folder.path(name + SUFFIX)
    try:
        whole = folder.read(name + SUFFIX)
    except FileNotFoundError as error:
        raise DamagedError(f"{file} is not there any more. Run again.") from error
    digest, data = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise DamagedError(f"{file} is damaged: its content is not what was written. Remove it and run again.")
    try:
        found: Arrays = load(data)
    except SafetensorError as error:
        raise DamagedError(f"{file} is no bundle ({error}). Remove it and run again.") from error
    return found


def bundles(folder: Folder) -> frozenset[str]:
    """Names of the bundles of a folder."""
    return frozenset(name.removesuffix(SUFFIX) for name in folder.names() if name.endswith(SUFFIX))
