"""Tables: Parquet for machines, CSV for people, written whole."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from storage.completion import Rows
from storage.errors import DamagedError, RemoteError, TableError
from storage.files import Folder, Written
from storage.user_tables import csv_table

#: Rows of a Parquet row group, which is read whole where some of its rows are wanted: of an index some megabytes.
GROUP_ROWS = 1 << 14
#: What begins a formula, wide as in Japanese too. Some spreadsheets drop blanks and quotes before it.
_FORMULA = r"(?=[\s\"\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20])"
#: Where it would be run: where a text begins, or behind what some take for the end of a cell (semicolon and tab).
FORMULA = re.compile(rf"(^|[;\t]){_FORMULA}|(^)(?=[\t\r])")
#: The same as it is written.
QUOTED = re.compile(rf"(^|[;\t])'{_FORMULA}|(^)'(?=[\t\r])")


def write_parquet(folder: Folder, name: str, table: pd.DataFrame) -> Written:
    """Writes a table as Parquet in row groups of `GROUP_ROWS`; the same table gives the same bytes."""
    data = io.BytesIO()
    table.to_parquet(data, index=False, compression="zstd", row_group_size=GROUP_ROWS)
    return folder.write(name, data.getvalue())


def write_parts(file: IO[bytes], parts: Iterable[pd.DataFrame]) -> None:
    """Writes tables that follow each other as one, as `write_parquet` does, in the memory of a part and a row group.

    The first gives the types of the columns; there has to be one.
    """
    waiting: list[pa.Table] = []
    num_waiting = 0
    with ExitStack() as opened:
        writer: pq.ParquetWriter | None = None
        for part in parts:
            waiting.append(pa.Table.from_pandas(part, writer.schema if writer else None, preserve_index=False))
            num_waiting += len(part)
            writer = writer or opened.enter_context(pq.ParquetWriter(file, waiting[0].schema, compression="zstd"))
            if num_waiting >= GROUP_ROWS:
                # In one piece: the bytes depend on the rows alone, not on the parts they came in.
                whole = pa.concat_tables(waiting).combine_chunks()
                num_whole = num_waiting - num_waiting % GROUP_ROWS
                writer.write_table(whole[:num_whole], row_group_size=GROUP_ROWS)
                waiting, num_waiting = [whole[num_whole:]], num_waiting - num_whole
        if num_waiting:
            assert writer is not None  # of the part that waits
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


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
        ends = _row_group_ends(parquet, rows)
        first, last = np.searchsorted(ends, [rows.start, rows.stop - 1], side="right") - 1
        table: pd.DataFrame = parquet.read_row_groups(range(first, last + 1)).to_pandas()
        table.index = pd.RangeIndex(ends[first], ends[last + 1])
        return table.loc[rows.start : rows.stop - 1]


def read_chosen(folder: Folder, name: str, chosen: Sequence[int], columns: list[str] | None = None) -> pd.DataFrame:
    """Rows of a Parquet table by their numbers, rising and each once, labelled by them; or some of their columns.

    Holds these rows and one row group more. Raises `DamagedError` as `read_rows` does.
    """
    with _damage_named(folder, name, f"the folder {folder.url}"), folder.open(name) as file:
        parquet = pq.ParquetFile(file)
        wanted = np.asarray(chosen, dtype=np.int64)
        ends = _row_group_ends(parquet, Rows(wanted[0], wanted[-1] + 1) if len(wanted) else Rows(0, 0))
        of = np.searchsorted(ends, wanted, side="right") - 1
        found = [
            parquet.read_row_group(group, columns).take(wanted[of == group] - ends[group]) for group in np.unique(of)
        ]
        table: pd.DataFrame = pa.concat_tables(found or [parquet.read_row_groups([], columns)]).to_pandas()
        table.index = pd.Index(wanted)
        return table


def _row_group_ends(parquet: pq.ParquetFile, wanted: Rows) -> npt.NDArray[np.int64]:
    """Where row groups begin, and the end of the last. Raises `ValueError` where the table ends before `wanted`."""
    groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    ends = np.cumsum([0, *(group.num_rows for group in groups)])  # of row groups, by the rows before them
    if wanted.stop > ends[-1]:
        raise ValueError(f"it has {ends[-1]} rows, and rows {wanted.start} to {wanted.stop - 1} are wanted")
    return ends


@contextmanager
def _damage_named(folder: Folder, name: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(
            f"The table {folder.path(name)} is not there any more. Remove {what} and run again."
        ) from error
    except (RemoteError, MemoryError):
        raise
    except Exception as error:
        # pyarrow's own errors are ValueError and OSError; pandas trusts what a table says of its columns' kinds.
        raise DamagedError(
            f"The table {folder.path(name)} is damaged ({error}). Remove {what} and run again."
        ) from error


def write_csv(folder: Folder, name: str, table: pd.DataFrame) -> Written:
    """Writes a table as CSV: UTF-8, `\\n`, a header. A text that a spreadsheet would run is quoted with `'`."""
    text = table.copy()
    for column in text.columns:
        if text[column].dtype == object or isinstance(text[column].dtype, pd.StringDtype):
            text[column] = text[column].map(_harmless)
    return folder.write(name, text.to_csv(index=False, lineterminator="\n").encode())


def _harmless(value: object) -> object:
    # A concept or file name that starts like a formula is run by spreadsheets when the table is opened.
    if not isinstance(value, str):
        return value
    # A lone \r would be written bare, and ends the row for most readers.
    return FORMULA.sub(r"\1'", value).replace("\r", " ")


def read_csv(folder: Folder, name: str) -> pd.DataFrame:
    """A CSV table with a header, each cell as text: `null` and `nan` are words, and what is blank is ''.

    Undoes the quoting of `write_csv`. Raises `FileNotFoundError`, and `TableError` where it is no table.
    """
    data = folder.read(name)
    try:
        table = csv_table(data, name)
    except TableError as error:
        raise TableError(f"{folder.path(name)} is no CSV in UTF-8 with a header ({error}).") from error
    return table.map(lambda text: QUOTED.sub(r"\1", text))
