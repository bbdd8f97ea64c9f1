"""Tables come back as they were, and no spreadsheet runs what they hold."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest

from storage.errors import DamagedError
from storage.files import Folder
from storage.tables import read_parquet, write_csv, write_parquet

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


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "a\r=1", '=HYPERLINK("http://x")'])
def test_no_cell_holds_a_text_that_a_spreadsheet_would_run(folder: Folder, text: str) -> None:
    table = pd.DataFrame({"concept": [text, "red-green", "a=b"], "similarity": [-1.5, -2.0, 3.0]})
    write_csv(folder, "x.csv", table)
    rows = list(csv.DictReader(io.StringIO(folder.read("x.csv").decode(), newline="")))
    assert len(rows) == 3
    assert rows[0]["concept"][:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert text.split()[-1] in rows[0]["concept"]
    assert [row["concept"] for row in rows[1:]] == ["red-green", "a=b"]
    assert [float(row["similarity"]) for row in rows] == [-1.5, -2.0, 3.0]
    assert table["concept"][0] == text
