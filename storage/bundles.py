"""Bundles: a few named arrays that belong together, as one `.npz` file that is there whole or not at all.

For what one task leaves to another. What users read is Zarr or Parquet.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import DamagedError
from storage.files import Folder

SUFFIX = ".npz"

Arrays = dict[str, npt.NDArray[Any]]


def write_bundle(folder: Folder, name: str, arrays: Arrays) -> None:
    """Writes arrays of numbers under their names; the same arrays give the same bytes."""
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    folder.write(name + SUFFIX, data.getvalue())


def read_bundle(folder: Folder, name: str) -> Arrays:
    """The arrays of a bundle. Raises `DamagedError` where it is torn or gone."""
    file = folder.path(name + SUFFIX)
    try:
        with np.load(io.BytesIO(folder.read(name + SUFFIX)), allow_pickle=False) as found:
            return dict(found)
    except FileNotFoundError as error:
        raise DamagedError(f"{file} is not there any more. Run again.") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{file} is damaged ({error}). Remove it and run again.") from error


def bundles(folder: Folder) -> frozenset[str]:
    """Names of the bundles of a folder."""
    return frozenset(name.removesuffix(SUFFIX) for name in folder.names() if name.endswith(SUFFIX))
