"""Images whose bytes lie in a Parquet table, as Hugging Face keeps data sets: a column of `bytes` and `path`."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import SourceError, StorageError, UnreadableError
from storage.files import split
from storage.identity import digest_of
from storage.sources.image_list import PATH_COLUMNS, column_texts, labels_of, open_parquet, trouble_named, url_in
from storage.sources.reading import MAX_BYTES, fetch
from storage.sources.source import CopiedSource, SourceImage
from storage.user_tables import column_named

WEB = ("http://", "https://")
#: Held while a row group is read: several threads would each read the same.
_reading = Lock()


@dataclass(frozen=True)
class ParquetImages(CopiedSource):
    """The images of a table, in its order, each called by its `path`, or `row-7` where it has none.

    One row group is in memory at a time.
    """

    text: str

    def images(self) -> Iterator[SourceImage]:
        """Raises `SourceError` where the table cannot be read, or is empty."""
        folder, name = split(self.text)
        with open_parquet(self.text) as file:
            column = bytes_column(file.schema_arrow)
            has_path = file.schema_arrow.field(column).type.get_field_index("path") >= 0
            labels = labels_of(file)
            paths = column_texts(file, column) if has_path else [""] * len(labels)
        if not paths:
            raise SourceError(f"{self.text} has no row. It takes an image a row.")
        _downloaded.cache_clear()
        version = "" if self.text.startswith(WEB) else folder.version(name)
        where = f"{folder.path(name)}#{digest_of({'version': version})}"
        for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
            yield SourceImage(path or f"row-{number}", f"{where}#{number}", 0, version, label)

    def read(self, url: str) -> bytes:
        """The bytes in the table; those of the file that `path` names where it has none, as `datasets` does."""
        table, version, number = url.rsplit("#", 2)
        with _reading:
            starts = _starts(table, version)
            group = bisect_right(starts, int(number)) - 1
            image = _images(table, version, group)[int(number) - starts[group]] or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if not image.get("path"):
            raise UnreadableError("has neither bytes nor a path in the table")
        return fetch(url_in(split(table)[0], image["path"]))


def holds_images(text: str) -> bool:
    """True if a Parquet table is there that has the bytes of images."""
    try:
        with open_parquet(text) as file:
            return bool(bytes_column(file.schema_arrow))
    except StorageError:
        return False  # told when it is listed


def bytes_column(schema: pa.Schema) -> str:
    """Name of the column with the bytes of images, or nothing; of several, the first of `PATH_COLUMNS`."""
    found = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and not pa.types.is_string(field.type.field("bytes").type)
    ]
    return found[0] if len(found) == 1 else column_named(found, PATH_COLUMNS) or ""


@contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    """As `open_parquet`, but what is on the web is downloaded once for all its row groups."""
    if not url.startswith(WEB):
        with open_parquet(url) as file:
            yield file
        return
    with trouble_named(url), pq.ParquetFile(io.BytesIO(_downloaded(url))) as file:
        yield file


@lru_cache(maxsize=1)
def _downloaded(url: str) -> bytes:
    return fetch(url)


@lru_cache(maxsize=4)
def _starts(url: str, version: str) -> list[int]:
    """Numbers of the first rows of row groups."""
    del version  # what it is cached by
    with _opened(url) as file:
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return list(accumulate(groups[:-1], initial=0))


@lru_cache(maxsize=1)
def _images(url: str, version: str, group: int) -> list[dict[str, Any] | None]:
    """Bytes and path of the images of a row group. Raises `UnreadableError` where it has more than `MAX_BYTES`."""
    del version  # as above
    with _opened(url) as file:
        name, columns = bytes_column(file.schema_arrow), file.metadata.row_group(group)
        size = sum(
            columns.column(number).total_uncompressed_size
            for number in range(columns.num_columns)
            if columns.column(number).path_in_schema.startswith(f"{name}.")
        )
        if size <= MAX_BYTES:
            return list(file.read_row_group(group, columns=[name]).column(name).to_pylist())
    raise UnreadableError(
        f"is in a row group of {size:,} bytes, more than {MAX_BYTES:,}: write the table with fewer rows in each, as "
        "`pyarrow.parquet.write_table(table, path, row_group_size=100)` does"
    )
