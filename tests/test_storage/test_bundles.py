"""Bundles: there whole or not at all, and equal bytes for equal arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from storage.bundles import bundles, read_bundle, write_bundle
from storage.errors import DamagedError
from storage.files import Folder

ARRAYS = {"rows": np.arange(6).reshape(2, 3), "seconds": np.array(1.5), "none": np.empty((0, 2), np.float32)}


def test_what_is_written_is_read(folder: Folder) -> None:
    write_bundle(folder, "one", ARRAYS)
    found = read_bundle(folder, "one")
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert bundles(folder) == {"one"}


def test_the_same_arrays_give_the_same_bytes(folder: Folder) -> None:
    for name in ("one", "two"):
        write_bundle(folder, name, ARRAYS)
    assert folder.read("one.bundle") == folder.read("two.bundle")


def test_a_flipped_bit_a_cut_and_a_lost_file_are_named(folder: Folder) -> None:
    write_bundle(folder, "one", ARRAYS)
    whole = folder.read("one.bundle")
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for torn in (bytes(flipped), whole[: len(whole) // 2], b""):
        folder.write("one.bundle", torn)
        with pytest.raises(DamagedError, match=r"one\.bundle is damaged"):
            read_bundle(folder, "one")
    with pytest.raises(DamagedError, match=r"two\.bundle is not there"):
        read_bundle(folder, "two")


def test_many_threads_may_read_at_once(folder: Folder) -> None:
    write_bundle(folder, "one", ARRAYS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read_bundle(folder, "one")["seconds"].item(), range(400)))
    assert found == [1.5] * 400
