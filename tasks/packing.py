"""One part of a probe set: its images are read, checked, and packed into a shard, or found in a tar used in place."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

import pandas as pd
from PIL.Image import Image

from storage.completion import Completion
from storage.errors import SourceError, UnreadableError
from storage.files import Folder, Written, is_local, split
from storage.leases import Leases
from storage.shards import (
    INDEX_COLUMNS,
    REJECT_COLUMNS,
    ShardMember,
    TarPass,
    WrittenShard,
    is_in_place,
    write_shard,
)
from storage.sources.source import CopiedSource, Source, SourceImage
from storage.tables import write_parquet
from tasks.images import (
    MAX_JPEG_SIDE,
    UndecodableError,
    as_jpeg,
    as_png,
    decodable_size,
    decode,
    file_format,
    reduced,
    refuse_thin,
)
from tasks.number_types import in_8_bits
from tasks.running import go_on

#: Columns of the index that are known when the whole part is packed, or all parts are.
LATER = ("row", "shard", "offset")
#: URLs of a part that are fetched at a time, and images that may be held before they are packed.
FETCHED_AT_A_TIME, MAX_AHEAD = 8, 16
#: Why an image is refused whose values are to be scaled, where its bytes stay as they are.
IN_PLACE = (
    "its values would be stored anew in 8 bits, and its tar is used in place: unpack the tar and give the folder, or "
    "save the image in 8 bits"
)
#: What a marker and the manifest say of a shard, beside its name.
FACTS = ("num_images", "num_samples", "num_bytes", "sha256")


@dataclass(frozen=True)
class Packing:
    """How images become shards."""

    folder: Folder
    leases: Leases = field(hash=False)
    #: By name.
    sources: dict[str, Source] = field(hash=False)
    #: Shorter side of larger images, in pixels.
    resize: int | None

    @property
    def parts(self) -> Completion:
        """Markers of finished parts; their tables lie beside them."""
        return Completion(self.folder / "parts")


class Entries:
    """Rows of the index and of the rejects, as images are admitted or not."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self.rows: list[tuple[object, ...]] = []
        self.rejects: list[tuple[object, ...]] = []

    def admit(self, image: SourceImage, read: Callable[[], bytes]) -> ShardMember | None:
        """The image as it is stored, with a row in the index; None, and a row in the rejects, where it is none."""
        try:
            if image.reason:
                raise UnreadableError(image.reason)
            data, ending, encoding, size = self._stored(image, read())
        except (UndecodableError, UnreadableError) as error:
            self.rejects.append((image.source, image.path, image.num_bytes, str(error)))
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        self.rows.append((image.key, image.source, image.path, image.label, len(data), sha256, encoding, *size))
        return ShardMember(image.key, ending or file_format(data), data)

    def _stored(self, image: SourceImage, data: bytes) -> tuple[bytes, str, str, tuple[int, int]]:
        """Bytes, file name ending, encoding and size in pixels as the image is stored. Raises `UndecodableError`."""
        ending, encoding = image.ending, self._packing.sources[image.source].encoding
        scaled = in_8_bits(data)
        if scaled is not None:
            if image.offset >= 0:
                raise UndecodableError(IN_PLACE)
            # As other bytes, because what is computed of the probe set is named by them.
            data, ending, encoding = as_png(scaled), "png", "png"
        side = self._packing.resize
        if side is None:
            size = decodable_size(data)
            refuse_thin(size)
            return data, ending, encoding, size
        decoded = decode(data)
        refuse_thin(decoded.size)
        if min(decoded.size) <= side:
            return data, ending, encoding, decoded.size
        return _reduced(decoded, side)


def _reduced(image: Image, side: int) -> tuple[bytes, str, str, tuple[int, int]]:
    small = reduced(image, side)
    if max(small.size) > MAX_JPEG_SIDE:
        return as_png(small), "png", "png", small.size
    return as_jpeg(small), "jpg", "jpeg-95", small.size


def pack(packing: Packing, name: str, images: Sequence[SourceImage]) -> None:
    """Packs the images of the part `name`, and marks it done.

    A part is of images to copy, or of images of one tar. Raises what is wrong with more than one image.
    """
    started = time.perf_counter()
    entries = Entries(packing)
    shard = _copied(packing, name, images, entries) if images[0].offset < 0 else _in_place(images, entries)
    table = pd.DataFrame(entries.rows, columns=[column for column in INDEX_COLUMNS if column not in LATER])
    table["shard"], table["offset"] = shard.name, pd.Series(shard.offsets, dtype="int64")
    numbers = ["num_bytes", "offset", "width", "height"]
    table[numbers] = table[numbers].astype("int64")  # also where a shard has no image
    folder = packing.parts.folder
    files = [
        write_parquet(folder, f"{name}.parquet", table),
        write_parquet(folder, f"{name}.rejects.parquet", pd.DataFrame(entries.rejects, columns=REJECT_COLUMNS)),
    ]
    if not is_in_place(shard.name):
        files.append(Written(packing.folder.path(shard.name), shard.num_bytes, shard.sha256))
    facts = dict(zip(FACTS, attrgetter(*FACTS)(shard), strict=True))
    packing.parts.mark(name, {"shard": shard.name, **facts, "seconds": time.perf_counter() - started}, files)


def _copied(packing: Packing, name: str, images: Sequence[SourceImage], entries: Entries) -> WrittenShard:
    members = (entries.admit(image, read) for image, read in _reads(packing, images))
    return write_shard(packing.folder, f"shard-{name}.tar", (member for member in members if member))


def _reads(packing: Packing, images: Sequence[SourceImage]) -> Iterator[tuple[SourceImage, Callable[[], bytes]]]:
    """Each image with what reads it, in order. What is at a URL is read ahead by threads, which mostly wait."""
    ahead: deque[tuple[SourceImage, Callable[[], bytes]]] = deque()
    pool = ThreadPoolExecutor(FETCHED_AT_A_TIME, thread_name_prefix="fetch")
    try:
        for image in images:
            go_on()
            source = packing.sources[image.source]
            assert isinstance(source, CopiedSource)  # no other lists images without an offset
            read = partial(source.read, image.url)
            ahead.append((image, read if image.reason or is_local(image.url) else pool.submit(read).result))
            if len(ahead) == MAX_AHEAD:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # where packing fails, nobody wants the rest


def _in_place(images: Sequence[SourceImage], entries: Entries) -> WrittenShard:
    url, offsets = images[0].url, []
    folder, name = split(url)
    try:
        opened = folder.open(name)
    except FileNotFoundError as error:
        raise SourceError(
            f"{url} was listed and is not there any more. Put it back, or leave it out of --probe; then run again."
        ) from error
    with opened as file:
        tar = TarPass(url, file)
        for image in images:
            go_on()
            if entries.admit(image, partial(tar.member, image.offset)):
                offsets.append(image.offset)
        return tar.finish(offsets)
