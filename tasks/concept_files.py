"""Files of concepts as users have them: text, tables and JSON. What is none of these is refused by what it is."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow.parquet as pq

from storage.errors import TableError
from storage.files import split
from storage.user_tables import CSVS, column_named, csv_table, decoded, texts
from tasks.dissection.concepts import COMMON, ConceptList, lines, parse
from tasks.dissection.errors import ConceptError

#: What the column of concepts in a table is called; the first that a table has is taken.
CONCEPT_COLUMNS = ("concept", "name", "label", "text", "class")
#: What files of other kinds begin with.
KINDS = {
    b"\x93NUMPY": "an array",
    b"PK\x03\x04": "a ZIP archive, as .npz, .xlsx and PyTorch's files are",
    b"\x1f\x8b": "a compressed file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet table whose name does not end in .parquet",
    b"%PDF": "a PDF",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
}
#: What a JSON file may hold in place of a list.
_KINDS_OF_JSON = {dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
#: The way out.
TAKES = "It takes text with a concept a line, a .csv, .tsv or .parquet table with a column `concept`, or a .json list"


def concept_file(name: str) -> ConceptList:
    """The concepts of a file, by its ending: `.csv`, `.tsv`, `.parquet`, `.json`, or text with one a line.

    Raises `ConceptError` where it is not there, or is none of them.
    """
    lower = name.lower()
    if lower.endswith(".parquet"):
        return _of_parquet(name)
    if lower.endswith(CSVS):
        return _of_csv(name)
    if lower.endswith(".json"):
        return _without_blanks(lines_of_file(name), name)
    return parse(read_text(name), name)


def lines_of_file(name: str) -> list[str]:
    """The lines of a text file, or the texts of a JSON list, blank ones too. Raises `ConceptError`."""
    data = read_text(name)
    return _of_json(data, name) if name.lower().endswith(".json") else lines(data, name)


def read_text(name: str) -> bytes:
    """A text file in UTF-8, whatever Unicode encoding it has.

    Raises `ConceptError` where it is not there, or is no text.
    """
    data = _read(name)
    what = next((kind for start, kind in KINDS.items() if data.startswith(start)), None)
    if what:
        embeddings = " Concept embeddings go to --concept-embeddings." if what == "an array" else ""
        raise ConceptError(f"{name} is {what}, not text. {TAKES}.{embeddings}")
    try:
        text = decoded(data, name)
    except TableError as error:
        raise ConceptError(f"{name}, {error}") from error
    if "\0" in text:
        raise ConceptError(f"{name} is a binary file, not text: character {text.index(chr(0)):,} is a NUL. {TAKES}.")
    return text.encode()


def _read(name: str) -> bytes:
    folder, file_name = split(name)
    try:
        return folder.read(file_name)
    except (FileNotFoundError, IsADirectoryError) as error:
        known = ", ".join([*COMMON, "imagenet", "sample"])
        raise ConceptError(f"There is no concept file {name}, and no list of that name ({known}).") from error


def _of_csv(name: str) -> ConceptList:
    try:
        table = csv_table(read_text(name), name)
        column = column_named(table.columns, CONCEPT_COLUMNS)
    except TableError as error:
        raise ConceptError(f"{name} is no table of concepts that can be read ({error}).") from error
    if not column:
        raise ConceptError(
            f"{name} begins with {', '.join(map(repr, table.columns))}, and none of these is a name for a column of "
            f"concepts ({', '.join(CONCEPT_COLUMNS)}). Write a header, or rename the file to .txt if each line is a "
            "concept."
        )
    return _without_blanks(table[column], name, tuple(other for other in table.columns if other != column))


def _of_parquet(name: str) -> ConceptList:
    data = io.BytesIO(_read(name))
    try:
        with pq.ParquetFile(data) as file:
            columns = list(file.schema_arrow.names)
            column = column_named(columns, CONCEPT_COLUMNS) or (columns[0] if len(columns) == 1 else "")
            found = texts(file.read(columns=[column]).column(column), column) if column else []
    except Exception as error:  # what pyarrow finds wrong with it is of many kinds
        raise ConceptError(f"{name} is no Parquet table of concepts that can be read ({error}).") from error
    if not column:
        raise ConceptError(
            f"{name} has columns {', '.join(map(repr, columns))}, and none is called {', '.join(CONCEPT_COLUMNS)}. "
            "Rename the one with the concepts."
        )
    return _without_blanks(found, name, tuple(other for other in columns if other != column))


def _of_json(data: bytes, name: str) -> list[str]:
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConceptError(f"{name} is no JSON that can be read ({error}).") from error
    if not isinstance(found, list):
        raise ConceptError(
            f"{name} holds {_KINDS_OF_JSON.get(type(found), 'a number')}, not a list of texts. Save its names as a "
            'list, ["dog", "cat"], in the order of their rows.'
        )
    wrong = next((row for row, text in enumerate(found) if not _is_text(text)), None)
    if wrong is not None:
        raise ConceptError(f"{name}: entry {wrong} of {len(found)} is {str(found[wrong])[:60]!a}, which is no text.")
    return [text.strip() for text in found]


def _is_text(value: object) -> bool:
    """True for a text that can be written: half a character (`\\ud800`) cannot."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def _without_blanks(cells: Iterable[str], name: str, unused: tuple[str, ...] = ()) -> ConceptList:
    found = [cell.strip() for cell in cells]
    concepts = tuple(cell for cell in found if cell)
    if not concepts:
        raise ConceptError(f"{name} holds no concept ({len(found)} rows, none with text).")
    return ConceptList(concepts, len(found) - len(concepts), unused)
