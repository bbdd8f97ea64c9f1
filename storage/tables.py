"""Tables: Parquet for machines, CSV for people, written whole."""

from __future__ import annotations

import io

import pandas as pd

from storage.errors import DamagedError
from storage.files import Folder


def write_parquet(folder: Folder, name: str, table: pd.DataFrame) -> None:
    """Writes a table as Parquet; the same table gives the same bytes."""
    data = io.BytesIO()
    table.to_parquet(data, index=False, compression="zstd")
    folder.write(name, data.getvalue())


def read_parquet(folder: Folder, name: str, *, alone: bool = False, columns: list[str] | None = None) -> pd.DataFrame:
    """A Parquet table, or some of its columns. Raises `DamagedError` where it is torn or gone.

    The way out is to remove the folder, whose files were made together, or where it stands `alone` just the file.
    """
    way_out = "Remove it and run again." if alone else f"Remove the folder {folder.url} and run again."
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise DamagedError(f"The table {folder.path(name)} is not there any more. {way_out}") from error
    try:
        return pd.read_parquet(io.BytesIO(data), columns=columns)
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these kinds
        raise DamagedError(f"The table {folder.path(name)} is damaged ({error}). {way_out}") from error


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
