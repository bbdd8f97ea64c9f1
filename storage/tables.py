"""Tables: Parquet for machines, CSV for people, written whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from storage.completion import Rows
from storage.errors import DamagedError
from storage.files import Folder

#: Rows of a Parquet row group, which is read whole where some of its rows are wanted: of an index some megabytes.
GROUP_ROWS = 1 << 14


def write_parquet(folder: Folder, name: str, table: pd.DataFrame) -> None:
    """Writes a table as Parquet in row groups of `GROUP_ROWS`; the same table gives the same bytes."""
    data = io.BytesIO()
    table.to_parquet(data, index=False, compression="zstd", row_group_size=GROUP_ROWS)
    folder.write(name, data.getvalue())


def read_parquet(folder: Folder, name: str, *, alone: bool = False, columns: list[str] | None = None) -> pd.DataFrame:
    """A Parquet table, or some of its columns. Raises `DamagedError` where it is torn or gone.

    The way out is to remove the folder, whose files were made together, or where it stands `alone` just the file.
    """
    with _damage_named(folder, name, "it" if alone else f"the folder {folder.url}"):
        return pd.read_parquet(io.BytesIO(folder.read(name)), columns=columns)


def read_rows(folder: Folder, name: str, rows: Rows) -> pd.DataFrame:
    """Rows `[start, stop)` of a Parquet table, labelled by their numbers; reads no row group that holds none of them.

    Raises `DamagedError` where the table is torn or gone, or has not so many rows.
    """
    with _damage_named(folder, name, f"the folder {folder.url}"), folder.open(name) as file:
        parquet = pq.ParquetFile(file)
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        ends = np.cumsum([0, *(group.num_rows for group in groups)])  # of row groups, by the rows before them
        if rows.stop > ends[-1]:
            raise ValueError(f"it has {ends[-1]} rows, and rows {rows.start} to {rows.stop - 1} are wanted")
        first, last = np.searchsorted(ends, [rows.start, rows.stop - 1], side="right") - 1
        table: pd.DataFrame = parquet.read_row_groups(range(first, last + 1)).to_pandas()
        table.index = pd.RangeIndex(ends[first], ends[last + 1])
        return table.loc[rows.start : rows.stop - 1]


@contextmanager
def _damage_named(folder: Folder, name: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(
            f"The table {folder.path(name)} is not there any more. Remove {what} and run again."
        ) from error
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these kinds
        raise DamagedError(
            f"The table {folder.path(name)} is damaged ({error}). Remove {what} and run again."
        ) from error


def write_csv(folder: Folder, name: str, table: pd.DataFrame) -> None:
    """Writes a table as CSV: UTF-8, `\\n`, a header. A text that a spreadsheet would run is quoted with `'`."""
    text = table.copy()
    for column in text.columns:
        if text[column].dtype == object or isinstance(text[column].dtype, pd.StringDtype):
            text[column] = text[column].map(_harmless)
    folder.write(name, text.to_csv(index=False, lineterminator="\n").encode())


def _harmless(value: object) -> object:
    # A concept or file name that starts like a formula is run by spreadsheets when the table is opened.
    if not isinstance(value, str):
        return value
    # A lone \r would be written bare, and ends the row for most readers.
    harmless = value.replace("\r", " ")
    return f"'{harmless}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else harmless
