"""Tables come back as they were, and no spreadsheet runs what they hold."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from storage.completion import Rows
from storage.errors import DamagedError
from storage.files import Folder
from storage.tables import GROUP_ROWS, read_chosen, read_parquet, read_rows, write_csv, write_parquet, write_parts

TABLE = pd.DataFrame(
    {
        "layer": ["conv1", 'größe, "x"\nzwei'],
        "neuron": np.array([0, 1], dtype=np.int64),
        "similarity": [0.1, 1e-300],
        "log_prior": pd.array([None, -1.5], dtype="Float64"),
        "is_dead": [False, True],
    }
)


def test_a_parquet_table_comes_back_as_it_was(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", TABLE)
    pd.testing.assert_frame_equal(read_parquet(folder, "x.parquet"), TABLE)


def test_the_same_table_gives_the_same_bytes(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", TABLE)
    write_parquet(folder, "y.parquet", read_parquet(folder, "x.parquet").copy())
    assert folder.read("x.parquet") == folder.read("y.parquet")


LARGE = pd.DataFrame(
    {"row": np.arange(2 * GROUP_ROWS + 3), "path": [f"{row:06d}.jpg" for row in range(2 * GROUP_ROWS + 3)]}
)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (GROUP_ROWS - 1, GROUP_ROWS),
        (GROUP_ROWS, GROUP_ROWS + 1),
        (GROUP_ROWS - 1, GROUP_ROWS + 1),
        (5, 2 * GROUP_ROWS + 1),
        (0, GROUP_ROWS),
        (2 * GROUP_ROWS, 2 * GROUP_ROWS + 3),
        (2 * GROUP_ROWS + 2, 2 * GROUP_ROWS + 3),
        (0, 2 * GROUP_ROWS + 3),
        (7, 7),
    ],
)
def test_some_rows_are_those_of_the_whole_table(start: int, stop: int, folder: Folder) -> None:
    write_parquet(folder, "x.parquet", LARGE)
    whole = read_parquet(folder, "x.parquet")
    pd.testing.assert_frame_equal(read_rows(folder, "x.parquet", Rows(start, stop)), whole.iloc[start:stop])


def test_row_groups_are_bounded_and_the_same_table_gives_the_same_bytes(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", LARGE)
    write_parquet(folder, "y.parquet", read_parquet(folder, "x.parquet"))
    assert folder.read("x.parquet") == folder.read("y.parquet")
    metadata = pq.ParquetFile(io.BytesIO(folder.read("x.parquet"))).metadata
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes == [GROUP_ROWS, GROUP_ROWS, 3]


def test_row_groups_that_hold_no_row_asked_for_are_not_read(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", LARGE)
    data = bytearray(folder.read("x.parquet"))
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    for group in (0, 2):
        columns = [metadata.row_group(group).column(number) for number in range(metadata.num_columns)]
        starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
        for column, start in zip(columns, starts, strict=True):
            data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    folder.write("x.parquet", bytes(data))
    middle = Rows(GROUP_ROWS, 2 * GROUP_ROWS)
    assert read_rows(folder, "x.parquet", middle)["row"].tolist() == list(range(middle.start, middle.stop))
    for rows in (Rows(0, 1), Rows(middle.start - 1, middle.stop), Rows(middle.start, middle.stop + 1)):
        with pytest.raises(DamagedError, match=r"(?s)x\.parquet is damaged .*Remove the folder .* run again"):
            read_rows(folder, "x.parquet", rows)


@pytest.mark.parametrize("step", [1_000, GROUP_ROWS - 1, GROUP_ROWS, 2 * GROUP_ROWS + 1, len(LARGE)])
def test_parts_make_the_same_bytes_however_they_are_cut(step: int, folder: Folder) -> None:
    for name, size in (("x.parquet", step), ("y.parquet", len(LARGE))):
        with folder.writing(name) as file:
            write_parts(file, (LARGE[first : first + size] for first in range(0, len(LARGE), size)))
    assert folder.read("x.parquet") == folder.read("y.parquet")
    write_parquet(folder, "z.parquet", LARGE)
    pd.testing.assert_frame_equal(read_parquet(folder, "x.parquet"), read_parquet(folder, "z.parquet"))
    metadata = pq.ParquetFile(io.BytesIO(folder.read("x.parquet"))).metadata
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes == [GROUP_ROWS, GROUP_ROWS, 3]


@pytest.mark.parametrize("chosen", [[], [0], [7, 8, GROUP_ROWS - 1, GROUP_ROWS, 2 * GROUP_ROWS + 2], list(range(9))])
def test_chosen_rows_are_those_of_the_whole_table(chosen: list[int], folder: Folder) -> None:
    write_parquet(folder, "x.parquet", LARGE)
    whole = read_parquet(folder, "x.parquet")
    pd.testing.assert_frame_equal(read_chosen(folder, "x.parquet", chosen), whole.iloc[chosen])
    of = read_chosen(folder, "x.parquet", chosen, ["path"])
    pd.testing.assert_frame_equal(of, whole[["path"]].iloc[chosen])


def test_chosen_rows_that_a_table_has_not_are_damage(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", TABLE)
    with pytest.raises(DamagedError, match=r"it has 2 rows, and rows 0 to 2 are wanted\).*Remove the folder"):
        read_chosen(folder, "x.parquet", [0, 2])


def test_rows_that_a_table_has_not_are_damage_with_both_numbers(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", TABLE)
    with pytest.raises(DamagedError, match=r"it has 2 rows, and rows 1 to 2 are wanted\).*Remove the folder"):
        read_rows(folder, "x.parquet", Rows(1, 3))
    with pytest.raises(DamagedError, match=r"y\.parquet is not there any more\. Remove the folder"):
        read_rows(folder, "y.parquet", Rows(0, 1))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_torn_table_says_what_to_remove(folder: Folder, share: float) -> None:
    write_parquet(folder, "x.parquet", TABLE)
    data = folder.read("x.parquet")
    folder.write("x.parquet", data[: int(share * len(data))])
    with pytest.raises(DamagedError, match=r"x\.parquet is damaged .*Remove the folder .* and run again"):
        read_parquet(folder, "x.parquet")
    with pytest.raises(DamagedError, match=r"x\.parquet is damaged .*Remove it and run again"):
        read_parquet(folder, "x.parquet", alone=True)


def test_a_table_that_is_gone_says_so(folder: Folder) -> None:
    with pytest.raises(DamagedError, match=r"x\.parquet is not there any more"):
        read_parquet(folder, "x.parquet")


def test_a_table_without_rows_keeps_its_columns(folder: Folder) -> None:
    write_parquet(folder, "x.parquet", TABLE.iloc[:0])
    assert list(read_parquet(folder, "x.parquet").columns) == list(TABLE.columns)


def test_a_csv_table_is_read_by_plain_csv(folder: Folder) -> None:
    write_csv(folder, "x.csv", TABLE)
    data = folder.read("x.csv")
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert rows[1] == {
        "layer": 'größe, "x"\nzwei',
        "neuron": "1",
        "similarity": "1e-300",
        "log_prior": "-1.5",
        "is_dead": "True",
    }
    assert rows[0]["log_prior"] == ""
    assert b"\r" not in data


@pytest.mark.parametrize(
    "text",
    [
        *(
            "=1+1",
            "+1",
            "-2",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "a\r=1",
            '=HYPERLINK("http://x")',
            "＝1",
            "＋1",
            "－1",
            "＠1",
        ),
        *(" =1", "\xa0=1", "\ufeff=1", '"=1', "\n=1", "x;=1", "x\t=1", 'x; "=1', "=", "x;;=1", ";=1", "-;-1", "\tx"),
    ],
)
def test_no_cell_holds_a_text_that_a_spreadsheet_would_run(folder: Folder, text: str) -> None:
    table = pd.DataFrame({"concept": [text, "red-green", "a=b"], "similarity": [-1.5, -2.0, 3.0]})
    write_csv(folder, "x.csv", table)
    rows = list(csv.DictReader(io.StringIO(folder.read("x.csv").decode(), newline="")))
    assert len(rows) == 3
    for cell in re.split(r"[;\t]", rows[0]["concept"]):  # as spreadsheets of some languages take them
        assert cell.strip('\r\n \xa0\ufeff"')[:1] not in tuple("=+-@＝＋－＠")
    assert rows[0]["concept"][:1] not in ("\t", "\r")
    assert rows[0]["concept"].replace("'", "").split() == text.split()
    assert [row["concept"] for row in rows[1:]] == ["red-green", "a=b"]
    assert [float(row["similarity"]) for row in rows] == [-1.5, -2.0, 3.0]
    assert table["concept"][0] == text
