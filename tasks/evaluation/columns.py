"""Tables that users give, and their columns, which each tool calls its own way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from storage.errors import DamagedError, TableError
from storage.files import split
from storage.tables import read_csv, read_parquet
from storage.user_tables import CSVS, TABLES, column_named

#: What the column of units is called.
UNIT = ("unit", "neuron")
#: Units of a layer are fewer: a number beyond is a mistake, and a line for each below would not fit in memory.
MOST_UNITS = 1 << 26


def is_table(url: str) -> bool:
    """Whether a file is a table, going by its name."""
    return url.lower().endswith(TABLES)


def read_table(url: str) -> pd.DataFrame:
    """A table that a user gives. Raises `TableError` where it is not there or is none."""
    folder, name = split(url)
    try:
        if name.lower().endswith(CSVS):
            return read_csv(folder, name)
        if folder.exists(name):
            return _plain(read_parquet(folder, name, alone=True))
    except (FileNotFoundError, IsADirectoryError):
        pass
    except DamagedError as error:  # which says to remove it, as is right of our own
        raise TableError(f"{url} is no Parquet table ({error.__cause__}). Give one, or a .csv.") from error
    raise TableError(f"There is no table {url}.")


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """A Parquet table without pandas' nullable, categorical and time columns, which take no '' for what is blank."""
    is_named = table.index.names != [None] and not set(table.index.names) & set(table.columns)
    table = table.reset_index() if is_named else table  # the index that a table was written with is a column too
    kinds = {name: object for name, kind in table.dtypes.items() if not isinstance(kind, np.dtype | pd.StringDtype)}
    kinds |= {name: object for name, kind in table.dtypes.items() if getattr(kind, "kind", "") in "mM"}
    return table.astype(kinds)


def column(table: pd.DataFrame, names: Sequence[str], origin: str) -> pd.Series:
    """The column that has one of these names. Raises `TableError`."""
    found = find(table, names, origin)
    if found is None:
        raise TableError(
            f"{origin} has no column {' or '.join(names)}, but {', '.join(map(str, table.columns)) or 'none'}. "
            "Rename the one that holds it."
        )
    return found


def find(table: pd.DataFrame, names: Sequence[str], origin: str) -> pd.Series | None:
    """The column that has the first of these names that is there, in any case. Raises `TableError` for several."""
    try:
        found = column_named(table.columns, names)
    except TableError as error:
        raise TableError(f"{origin}: {error}.") from error
    return None if found is None else table[found]


def units_of(table: pd.DataFrame, origin: str, first_unit: int = 0) -> pd.Series:
    """Numbers of units, from 0, for each row. Raises `TableError` for what is none."""
    given = column(table, UNIT, origin)
    units = numbers(given, origin)
    wrong = units.isna() | (units % 1 != 0) | (units < first_unit) | (units >= MOST_UNITS)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise TableError(
            f"{origin}, row {row + 1}: {given.iloc[row]!r} is no number of a unit, which are whole, begin at "
            f"{first_unit} and are below {MOST_UNITS:,}."
        )
    return units.astype(np.int64) - first_unit


def numbers(given: pd.Series, origin: str) -> pd.Series:
    """A column as float64, NaN where it is blank. Raises `TableError` for what is no number."""
    is_blank = given.isna() | (given.astype(str).str.strip() == "")
    values = pd.to_numeric(given.where(~is_blank), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isnan(values) & ~is_blank & (given.astype(str).str.strip().str.lower() != "nan")
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise TableError(f"{origin}, row {row + 1}: {given.name} is {given.iloc[row]!r}, which is no number.")
    return pd.Series(values, index=given.index)
