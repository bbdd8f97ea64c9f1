"""Zarr arrays with a row per probe image or shard group: made with the identity they hold, written in whole shards.

The unit of writing is the Zarr shard (two writers in one shard lose rows without an error), and a shard holds
chunks of some columns (the last axis), so that a task writes its rows as one object and labelling reads a block of
neurons.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import accumulate, product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError, GroupNotFoundError
from zarr.storage import LocalStore, WrapperStore

from storage import identity
from storage.completion import Rows
from storage.disk import writing_in
from storage.errors import ArrayError, RegionError
from storage.files import Folder, Written, is_local
from storage.identity import Identity
from storage.zarr_store import RemoteStore

#: Columns of a chunk: a block of neurons is read without its neighbours, and 50,000 rows are still few objects.
COLUMNS_PER_CHUNK = 128
#: Longest side of a chunk of an array of blocks: 4 MiB.
CHUNK_SIDE = 1_024
#: What zarr raises of a zarr.json that is torn, or of another make.
NO_METADATA = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError)

#: Zarr's name of the file that says what a group or an array is.
METADATA = "zarr.json"

Floats = npt.NDArray[np.float32]
Block = npt.NDArray[Any]
#: What stands where nothing was written, by data type.
FILL = {"float16": float("nan"), "float32": float("nan"), "float64": float("nan"), "int32": -1}
DataType = Literal["float16", "float32", "float64", "int32"]


class _Store(WrapperStore[ZarrStore]):
    """A store that knows what was written through it."""

    def __init__(self, store: ZarrStore, url: str = "") -> None:
        super().__init__(store)
        self.url = url
        self.written: dict[str, Written] = {}

    def _with_store(self, store: ZarrStore) -> _Store:
        return _Store(store, self.url)

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        # In a thread of its own: all writers of a process share the one that this runs in.
        data = value.as_numpy_array().data
        self.written[key] = await asyncio.to_thread(Written.of, f"{self.url}/{key}", data)


def open_group(url: str, wanted: Identity) -> zarr.Group:
    """The group at a URL, made with the identity `wanted` or checked against it.

    Raises `IdentityError`, or `ArrayError` where its metadata are damaged.
    """
    store = _store(url)
    try:
        with _writing(store):
            try:
                group = _open(store)
            except GroupNotFoundError:
                with suppress(ContainsGroupError):  # another process made it first, just the same
                    zarr.create_group(store, attributes={"identity": dict(wanted)})
                group = _open(store)
    except NO_METADATA as error:
        raise _no_array(url, error) from error
    found = group.attrs.asdict().get("identity")
    identity.check(found if isinstance(found, dict) else {}, wanted, f"The Zarr group {url}")
    return group


def _open(store: ZarrStore) -> zarr.Group:
    # Of this format alone: looking for the files of others is a dozen requests to an object store.
    return zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)


def create_rows(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    rows_per_shard: int,
    dimensions: tuple[str, ...],
    attributes: Identity,
    *,
    dtype: DataType = "float32",
    columns_per_chunk: int = COLUMNS_PER_CHUNK,
) -> None:
    """Makes the array `name` of shape `[rows, …, columns]`, `FILL` throughout, unless it is there already.

    A name may have a `/`: the groups on its path are made too.
    """
    chunk = min(shape[-1], columns_per_chunk)
    within = rows_per_shard, *shape[1:-1]
    columns = -(-shape[-1] // chunk) * chunk  # all columns, rounded up to whole chunks
    _create(group, name, shape, (*within, columns), (*within, chunk), dimensions, attributes, dtype)


def create_blocks(
    group: zarr.Group,
    name: str,
    shape: tuple[int, int],
    block: tuple[int, int],
    units: tuple[int, int],
    dimensions: tuple[str, str],
    attributes: Identity,
) -> None:
    """Makes the float32 array `name` of shape `[N, C]` whose shards are blocks, unless it is there already.

    A block's sides are multiples of `units`, or the whole axis.
    """
    # A side of several blocks is cut where blocks are; the chunks of one that is a single block are free.
    chunks = [
        min(length, CHUNK_SIDE) if side >= length else unit
        for length, side, unit in zip(shape, block, units, strict=True)
    ]
    shards = [
        -(-min(side, length) // chunk) * chunk for length, side, chunk in zip(shape, block, chunks, strict=True)
    ]
    _create(group, name, shape, tuple(shards), tuple(chunks), dimensions, attributes, "float32")


def _create(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    shards: tuple[int, ...],
    chunks: tuple[int, ...],
    dimensions: tuple[str, ...],
    attributes: Identity,
    dtype: DataType,
) -> None:
    if "/" in name:
        # Before the array: zarr makes both at once, and where a process is killed in between, an array would be left
        # whose group nobody makes any more.
        with _writing(group.store), suppress(ContainsGroupError):
            group.require_group(name.rpartition("/")[0])
    with _writing(group.store), suppress(ContainsArrayError):  # another process made it first, just the same
        group.create_array(
            name,
            shape=shape,
            shards=shards,
            chunks=chunks,
            dtype=dtype,
            fill_value=FILL[dtype],
            dimension_names=dimensions,
            # The checksum finds every flipped bit; Blosc's own finds a third.
            compressors=ZstdCodec(level=1, checksum=True),
            attributes=dict(attributes),
        )


def write_rows(group: zarr.Group, name: str, rows: Rows, block: Block) -> list[Written]:
    """Writes `block` `[len(rows), …, columns]` over whole shards. Raises `RegionError` for any other region."""
    whole = (Rows(0, length) for length in _array(group, name).shape[1:])
    return write_region(group, name, (rows, *whole), block)


def write_region(group: zarr.Group, name: str, region: tuple[Rows, ...], block: Block) -> list[Written]:
    """Writes `block` over whole shards, a range of each axis; gives these. Raises `RegionError` for any other."""
    array = _array(group, name)
    shard = array.shards or array.chunks
    sides = list(zip(region, shard, array.shape, strict=True))
    if block.shape != tuple(map(len, region)) or not all(_is_whole(*side) for side in sides):
        raise RegionError(
            f"A block of shape {block.shape} for {' x '.join(f'{r.start} to {r.stop}' for r in region)} does not "
            f"cover whole shards of {' x '.join(map(str, shard))} of array {name!r} of shape {array.shape}."
        )
    where = tuple(slice(rows.start, rows.stop) for rows in region)
    numbers = product(*(range(rows.start // step, -(-rows.stop // step)) for rows, step, _ in sides))
    keys = [array.store_path / array.metadata.encode_chunk_key(number) for number in numbers]
    with _writing(group.store):
        try:
            array[where] = block
        except (RuntimeError, ValueError):
            # Zarr reads what it overwrites, and stumbles over a torn shard.
            for key in keys:
                sync(key.delete())
            array[where] = block
    # A shard that holds nothing but fill is not stored.
    written = cast(_Store, group.store).written
    return [written.pop(key.path) for key in keys if key.path in written]


def shards(group: zarr.Group, name: str) -> list[Written]:
    """The shards of an array that are there."""
    folder = Folder(cast(_Store, group.store).url) / name
    return [folder.written(one.path) for one in folder.files() if one.path != METADATA and not one.is_partial]


def metadata(group: zarr.Group, *names: str) -> list[Written]:
    """The files that say what a group is, and the groups and arrays on the way to `names` in it."""
    folder = Folder(cast(_Store, group.store).url)
    paths = {path for name in names for path in accumulate(name.split("/"), "{}/{}".format)}
    return [folder.written(name) for name in sorted({METADATA, *(f"{path}/{METADATA}" for path in paths)})]


def _is_whole(rows: Rows, step: int, length: int) -> bool:
    """Whether a range of an axis starts and ends where shards do."""
    return rows.start % step == 0 and (rows.stop == length or (rows.stop % step == 0 and rows.stop < length))


def read_rows(group: zarr.Group, name: str, rows: Rows, *within: slice) -> Block:
    """Rows of an array, `[len(rows), …, columns]`, or a part of them: a slice of each further axis."""
    try:
        array = _array(group, name)
    except KeyError as error:
        raise _damaged(group, name, "it is not there any more") from error
    try:
        block = np.asarray(array[(slice(rows.start, rows.stop), *within)])
    except (RuntimeError, ValueError) as error:  # zstd's checksum, and that of the shard's index
        raise _damaged(group, name, f"it cannot be read ({error})") from error
    return block


def read_finished_rows(group: zarr.Group, name: str, rows: Rows, *within: slice) -> Block:
    """Rows that are marked as done. Raises `ArrayError` where some are not there: zarr would give `FILL` for them."""
    block = read_rows(group, name, rows, *within)
    if len(block) != len(rows):
        raise _damaged(group, name, f"it has {len(block)} of {len(rows)} rows that were written")
    absent = np.isnan(block) if block.dtype.kind == "f" else block == FILL[block.dtype.name]
    lost = int(absent.reshape(len(block), -1).any(axis=1).sum())
    if lost:
        raise _damaged(group, name, f"{lost} of {len(rows)} rows that were written are not there any more")
    return block


def shape(group: zarr.Group, name: str) -> tuple[int, ...]:
    """Shape of an array. Raises `KeyError` where it is not there."""
    return _array(group, name).shape


def _damaged(group: zarr.Group, name: str, what: str) -> ArrayError:
    return ArrayError(
        f"Array {name!r} of {cast(_Store, group.store).url} is damaged: {what}. `clip-dissect verify STORE --repair` "
        "removes what is, and a run makes it again."
    )


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    where = f"{cast(_Store, group.store).url}/{name}"
    try:
        found = group[name]
    except NO_METADATA as error:
        if isinstance(error, KeyError) and error.args == (name,):
            raise  # it is not there
        raise _no_array(where, error) from error
    if not isinstance(found, zarr.Array):
        raise _no_array(where, "it is a group")
    return found


def _no_array(where: str, error: object) -> ArrayError:
    return ArrayError(
        f"{where} is damaged: its zarr.json cannot be used ({error}). `clip-dissect verify STORE --repair` removes "
        "what is, and a run makes it again."
    )


def _writing(store: ZarrStore) -> AbstractContextManager[None]:
    url = cast(_Store, store).url
    return writing_in(Path(url)) if is_local(url) else nullcontext()


def _store(url: str) -> _Store:
    return _Store(LocalStore(url) if is_local(url) else RemoteStore.at(url), url)
