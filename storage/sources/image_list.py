"""A list of images: a CSV or Parquet table with a path or URL a row, and a label where it has one."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import RemoteError, SourceError, UnreadableError
from storage.files import Folder, is_local, split
from storage.sources.folder import local_info
from storage.sources.reading import fetch
from storage.sources.source import CopiedSource, SourceImage, version_of
from storage.user_tables import CSVS, column_named, csv_table, texts

#: Columns that say where an image is; the first of these that a list has is taken.
PATH_COLUMNS = ("path", "url", "image", "file_name", "filename", "image_path", "filepath", "file", "img")
LABEL_COLUMNS = ("label",)


@dataclass(frozen=True)
class ImageList(CopiedSource):
    """The images of a table, in its order. Paths are relative to the list's folder."""

    text: str

    def images(self) -> Iterator[SourceImage]:
        """Raises `SourceError` where the list cannot be read, is empty, or has no column of paths."""
        column, paths, labels = _columns(self.text)
        if not paths:
            raise SourceError(f"The list {self.text} has a header and no row. It takes an image a row.")
        folder, _ = split(self.text)
        for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
            if not path:
                reason = f"row {number} of the list has nothing in column {column!r}"
                yield SourceImage(f"row {number}", "", 0, "", label, reason=reason)
                continue
            url = url_in(folder, path)
            size, version = size_and_version(url)
            is_windows = "\\" in path and not version and is_local(url)
            reason = "cannot be read: there is no such file. Write / in its path, not \\ as on Windows"
            yield SourceImage(path, url, size, version, label, reason=reason if is_windows else "")

    def read(self, url: str) -> bytes:
        """The file, or what a server answers."""
        return fetch(url)


def url_in(folder: Folder, path: str) -> str:
    """Where the image of a list in a folder is."""
    below = folder.path(path)
    if "::" in path and "://" not in path:  # the name of a file, or a chain of file systems, which is not opened
        return below if is_local(below) and Path(below).exists() else path
    return path if path.startswith("/") or not is_local(path) else below


def read_table(url: str) -> pd.DataFrame:
    """A CSV file as texts, nothing where a cell is empty. Raises `SourceError`."""
    with trouble_named(url):
        return csv_table(fetch(_absolute(url)), split(url)[1], skips_blanks=True)


def _columns(url: str) -> tuple[str, Sequence[str], Sequence[str]]:
    """Name of the column of paths of a list, its cells, and the labels. Raises `SourceError`."""
    if url.lower().endswith(CSVS):
        table = read_table(url)
        with trouble_named(url):
            path, label = _path_column(url, table.columns), column_named(table.columns, LABEL_COLUMNS)
        return path, table[path].tolist(), table[label].tolist() if label else [""] * len(table)
    with open_parquet(url) as file:
        path = _path_column(url, file.schema_arrow.names)
        return path, column_texts(file, path), labels_of(file)


def _path_column(url: str, columns: Iterable[str]) -> str:
    names = list(columns)
    found = column_named(names, PATH_COLUMNS)
    if found is None:
        raise SourceError(
            f"{url} has no column of image paths: it takes one of {', '.join(PATH_COLUMNS)}, and has "
            f"{', '.join(map(repr, names))}. A column `label` is optional."
        )
    return found


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet list, of which no more is read than is asked for. Raises `SourceError`, also for what reads it."""
    with trouble_named(url), _opened(_absolute(url)) as file, pq.ParquetFile(file) as parquet:
        yield parquet


def column_texts(file: pq.ParquetFile, name: str) -> list[str]:
    """The texts of a column, or of its field `path` where it holds images as Hugging Face does."""
    kind = file.schema_arrow.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        parts = file.read(columns=[f"{name}.path"]).column(name).chunks
        return texts(pa.chunked_array([part.field("path") for part in parts], kind.field("path").type), name)
    return texts(file.read(columns=[name]).column(name), name)


def labels_of(file: pq.ParquetFile) -> list[str]:
    """The label of each row; nothing where the list has none."""
    label = column_named(file.schema_arrow.names, LABEL_COLUMNS)
    return column_texts(file, label) if label else [""] * file.metadata.num_rows


def _absolute(url: str) -> str:
    folder, name = split(url)
    return folder.path(name)


def _opened(url: str) -> IO[bytes]:
    if url.startswith(("http://", "https://")):
        return io.BytesIO(fetch(url))
    folder, name = split(url)
    if not folder.is_file(name):
        return io.BytesIO(fetch(url))  # says what is wrong with it
    return folder.open(name)


@contextmanager
def trouble_named(url: str) -> Iterator[None]:
    """Names the list in whatever is raised of it, as `SourceError`."""
    try:
        yield
    except UnreadableError as error:
        raise SourceError(f"The list {url} {error}.") from error
    except (SourceError, RemoteError, MemoryError):
        raise
    except Exception as error:  # no table, no UTF-8; what pyarrow finds wrong with a Parquet file
        raise SourceError(f"The list {url} is no table that can be read ({error}).") from error


def size_and_version(url: str) -> tuple[int, str]:
    """Of a local file, as far as it is there. What is at a URL is taken to stay: to ask would be a request each."""
    if not is_local(url):
        return 0, ""
    try:
        info = local_info(Path(url).stat())
    except (OSError, ValueError):  # ValueError: a NUL in it
        return 0, ""  # refused with the reason when it is read
    return int(info["size"]), version_of(info)
