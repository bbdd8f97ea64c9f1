"""Tables as spreadsheets and other tools write them: read as they are meant, or refused with the line."""

from __future__ import annotations

import codecs
import csv
import io
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import TableError
from storage.user_tables import column_named, csv_table, decoded, texts

ROWS = {"path": ["a.png", "b, c.png"], "label": ["cat", "7"]}


def read(data: bytes | str, **options: bool) -> dict[str, list[str]]:
    table = csv_table(data.encode() if isinstance(data, str) else data, "x.csv", **options)
    return {str(name): cells for name, cells in table.to_dict("list").items()}


@pytest.mark.parametrize(
    "text",
    [
        'path,label\na.png,cat\n"b, c.png",7\n',
        'path,label\na.png,cat,\n"b, c.png",7,,\n',
        'path,label,\na.png,cat,\n"b, c.png",7,\n',
        'path,label,,\r\na.png,cat\r\n\r\n"b, c.png",7, \r\n',
        "path;label\na.png;cat\nb, c.png;7\n",
        "path\tlabel\na.png\tcat\nb, c.png\t7",
        "sep=;\r\npath;label\r\na.png;cat\r\nb, c.png;7\r\n",
        'sep=,\npath,label\na.png,cat\n"b, c.png",7\n',
        ' path ,"label"\na.png,cat\n"b, c.png",7\n',
        ',path,label\n0,a.png,cat\n1,"b, c.png",7\n',
        '"path";"label"\n"a.png";"cat"\n"b, c.png";"7"\n',
    ],
    ids=[
        *("plain", "commas at the end of rows", "of all lines", "blank lines", "semicolons", "tabs"),
        *("sep=;", "sep=,", "blanks in the header", "pandas' numbers of rows", "all quoted"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16be"])
def test_one_table_in_all_its_forms_is_one(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert read((codecs.BOM_UTF16_BE if encoding == "utf-16be" else b"") + data) == ROWS


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=2, max_size=2), max_size=6
    ),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_python_s_csv_writes_comes_back(rows: list[list[str]], delimiter: str, line_end: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b"], *rows])
    assert read(out.getvalue()) == {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}


def test_a_cell_keeps_line_breaks_and_delimiters_and_words_of_pandas() -> None:
    table = read('concept,unit\n"a\nb, ""c""",1\nnull,NaN\n')
    assert table == {"concept": ['a\nb, "c"', "null"], "unit": ["1", "NaN"]}


def test_a_row_may_lack_cells_at_its_end_wherever_it_stands() -> None:
    assert read("path,label,split\na\nb,x\nc,y,z\n") == {
        "path": ["a", "b", "c"],
        "label": ["", "x", "y"],
        "split": ["", "", "z"],
    }


def test_blanks_before_a_cell_stay_unless_they_are_to_be_left_out() -> None:
    assert read('a, b\n1, "x, y"\n', skips_blanks=True) == {"a": ["1"], "b": ["x, y"]}
    assert read("a,b\n 1, x\n") == {"a": [" 1"], "b": [" x"]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"path,label\na,b\ntench, Tinca,fish\n", r"line 3 has 3 cells, and the header has 2 .*\(path, label\).*','"),
        (b"path\tlabel\na\tb\tc\n", "line 2 has 3 cells.*holds a tab"),
        (b"path\n\na,b\n", "line 3 has 2 cells, and the header has 1"),
        (b"path,label,label\na,b,c\n", "several columns 'label'. Rename"),
        (b'path\na\n"b,c\n', "line 3: unexpected end"),
        (b'path\n"a"b\n', "line 2: "),
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b",,\n1,2,3\n", "it is empty"),
        (b"path\nok\ncaf\xe9\n", r"line 3: byte 0xe9 is not UTF-8\. .*iconv -f latin1 -t utf-8 x\.csv"),
        ("path\nü\n".encode("utf-16")[:-1], "is not UTF-16"),
        ("path\na\n".encode("utf-16le"), r"UTF-16 without a byte order mark.*iconv -f utf-16le"),
        ("path\na\n".encode("utf-16be"), r"UTF-16 without a byte order mark.*iconv -f utf-16be"),
    ],
)
def test_what_cannot_be_read_as_it_was_meant_is_refused_by_line(data: bytes, words: str) -> None:
    with pytest.raises(TableError, match=words):
        read(data)


def test_a_single_nul_does_not_make_a_text_utf16() -> None:
    assert decoded(b"a\0b", "x") == "a\0b" and decoded(b"", "x") == ""


def test_columns_are_found_by_the_order_of_names_then_in_other_case() -> None:
    names = ("path", "file_name")
    assert column_named(["File_Name", "path"], names) == "path"
    assert column_named(["file_name", "Path"], names) == "file_name"
    assert column_named(["x", "FILE NAME "], names) == "FILE NAME "
    assert column_named(["x"], names) is None
    with pytest.raises(TableError, match=r"several columns path: 'Path', 'PATH'"):
        column_named(["Path", "PATH"], names)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], pa.int64(), ["1", "", "3"]),
        ([1.0, None, float("nan"), 2.5], pa.float64(), ["1", "", "", "2.5"]),
        ([True, None], pa.bool_(), ["True", ""]),
        (["a", None, "a"], pa.dictionary(pa.int32(), pa.string()), ["a", "", "a"]),
        ([3, None], pa.dictionary(pa.int8(), pa.int64()), ["3", ""]),
        (["ü"], pa.large_string(), ["ü"]),
        ([b"abc"], pa.binary(), ["abc"]),
        ([Decimal("1.50")], pa.decimal128(5, 2), ["1.50"]),
        ([datetime(2026, 1, 2)], pa.timestamp("s"), ["2026-01-02 00:00:00"]),
        ([None, None], pa.null(), ["", ""]),
    ],
)
def test_columns_of_parquet_are_texts(values: list[object], kind: pa.DataType, expected: list[str]) -> None:
    assert texts(pa.chunked_array([pa.array(values, kind)]), "x") == expected


@pytest.mark.parametrize(("values", "kind"), [([[1]], pa.list_(pa.int64())), ([b"\xff"], pa.binary())])
def test_a_column_that_holds_no_text_is_refused_by_its_name(values: list[object], kind: pa.DataType) -> None:
    with pytest.raises(TableError, match=r"its column 'x' holds (list|binary)"):
        texts(pa.chunked_array([pa.array(values, kind)]), "x")


def test_one_column_has_tabs_between_cells_that_it_lacks_where_the_file_is_called_tsv() -> None:
    assert csv_table(b"concept\ntench, Tinca\n", "X.TSV")["concept"].tolist() == ["tench, Tinca"]
    assert csv_table(b"a,concept\n1,tench\n", "x.tsv")["concept"].tolist() == ["tench"]
