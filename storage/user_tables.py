"""Texts and tables as users have them: in the encodings and CSV dialects that spreadsheets and other tools write.

Nothing is guessed from the rows. What cannot be read as it was meant is refused with its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import TableError

#: What may stand between cells; of those that are as frequent in the header, the first is taken.
DELIMITERS = (",", ";", "\t")
#: Endings of tables, and of those that are CSV.
TABLES, CSVS = (".csv", ".tsv", ".parquet"), (".csv", ".tsv")
#: Encodings that a file names itself, by its first bytes. UTF-32 first: it begins as UTF-16 does.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decoded(data: bytes, name: str) -> str:
    """A text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises `TableError` with the line of what is not, and a command that converts it.
    """
    encoding = next((known for mark, known in MARKS.items() if data.startswith(mark)), "utf-8")
    convert = "Save the file as UTF-8, for instance with `iconv -f {} -t utf-8 {}`."
    first = data[:64]
    if encoding == "utf-8" and len(first) > 3 and b"\0" in first and not (any(first[1::2]) and any(first[::2])):
        of = "utf-16be" if first[0] == 0 else "utf-16le"
        raise TableError(f"the text is UTF-16 without a byte order mark. {convert.format(of, name)}")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        wrong = f"line {line}: byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}"
        raise TableError(f"{wrong}. {convert.format('latin1', name)}") from error


def csv_table(data: bytes, name: str, *, skips_blanks: bool = False) -> pd.DataFrame:
    """A CSV with a header, each cell as text: `null` and `nan` are words, and what is blank or missing is ''.

    The header says what stands between cells: commas, semicolons or tabs. A row may have fewer cells than the header,
    as Excel leaves out blank ones at its end, and blank ones beyond it, of commas at the end of a line. Columns
    without a name are left out. `skips_blanks` leaves out blanks before a cell. Raises `TableError` with the reason.
    """
    text = decoded(data, name)
    delimiter, text = _delimiter(text, DELIMITERS[::-1] if name.lower().endswith(".tsv") else DELIMITERS)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=skips_blanks)
    rows = _rows(reader)
    header = [cell.strip() for cell in next(rows, ())]
    if not any(header):
        raise TableError("it is empty: it takes a header, with a name for each column")
    twice = [name for name, times in Counter(filter(None, header)).items() if times > 1]
    if twice:
        raise TableError(f"it has several columns {twice[0]!r}. Rename all but one")
    width = len(header)
    while not header[width - 1]:
        width -= 1
    cells = [_aligned(row, header[:width], reader.line_num, delimiter) for row in rows]
    table = pd.DataFrame(cells, columns=header[:width], dtype=str)
    return table[[name for name in header[:width] if name]] if "" in header[:width] else table


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows of a CSV but for blank lines. Raises `TableError` with the line."""
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise TableError(f"line {getattr(reader, 'line_num', 0)}: {error}") from error
        if row is None:
            return
        if row:
            yield row


def _delimiter(text: str, known: Sequence[str]) -> tuple[str, str]:
    """What stands between cells by the first line, and the text without Excel's `sep=;` where it begins with that."""
    named = re.match(r"sep=([,;\t])\r?\n", text)
    if named:
        return named[1], text[named.end() :]
    unquoted = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    return max(known, key=unquoted.count), text


def _aligned(row: list[str], header: Sequence[str], line: int, delimiter: str) -> list[str]:
    """A row with as many cells as the header. Raises `TableError` where it has more that are not blank."""
    if any(cell.strip() for cell in row[len(header) :]):
        between = {"\t": "a tab"}.get(delimiter, f"a {delimiter!r}")
        raise TableError(
            f"line {line} has {len(row)} cells, and the header has {len(header)} columns ({', '.join(header)}). "
            f'Put quotes ("…") around a cell that holds {between}'
        )
    return row[: len(header)] + [""] * (len(header) - len(row))


def column_named(columns: Iterable[object], names: Sequence[str]) -> str | None:
    """The column that has the first of these names that is there; else by a name in other case, `File Name` for one.

    Raises `TableError` where several columns have that.
    """
    found = list(map(str, columns))
    exact = next((name for name in names if name in found), None)
    if exact is not None:
        return exact
    for name in names:
        like = [column for column in found if _plain(column) == _plain(name)]
        if len(like) > 1:
            raise TableError(f"it has several columns {name}: {', '.join(map(repr, like))}. Rename all but one")
        if like:
            return like[0]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def texts(column: pa.ChunkedArray, name: str) -> list[str]:
    """A column of a Parquet table as texts, '' where it has nothing; whole numbers have no `.0`.

    Raises `TableError` for lists, structs, and bytes that are no text.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        if pa.types.is_boolean(column.type):
            return ["" if value is None else str(value) for value in column.to_pylist()]
        return list(pc.fill_null(column.cast(pa.large_string()), "").to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(f"its column {name!r} holds {column.type}, not texts or numbers") from error
