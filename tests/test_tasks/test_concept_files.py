"""Files of concepts: text, tables and JSON are read, and what is none of these is refused by what it is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.concepts import named_list
from tasks.dissection.concepts import ConceptList
from tasks.dissection.errors import ConceptError
from tasks.evaluation.truth import read_truth

FORMS = {
    "a.txt": "tench, Tinca tinca\ndog\n",
    "b.csv": 'concept,group\n"tench, Tinca tinca",fish\ndog,animal\n',
    "c.csv": "id;Name;\r\n1;tench, Tinca tinca;\r\n2;dog;\r\n",
    "d.tsv": "text\ntench, Tinca tinca\ndog\n",
    "e.json": '["tench, Tinca tinca", " dog "]',
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_concepts_are_the_same_in_all_forms(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMS[name].encode(encoding))
    found = named_list(str(tmp_path / name))
    assert found.concepts == ("tench, Tinca tinca", "dog")
    assert found.unused == {"b.csv": ("group",), "c.csv": ("id",)}.get(name, ())


def test_a_parquet_table_with_one_column_needs_no_name(tmp_path: Path) -> None:
    pd.DataFrame({"word": pd.Categorical(["dog", None, "cat"])}).to_parquet(tmp_path / "x.parquet")
    assert named_list(str(tmp_path / "x.parquet")) == ConceptList(("dog", "cat"), 1)
    pd.DataFrame({"word": ["dog"], "of": ["x"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ConceptError, match=r"columns 'word', 'of', and none is called concept, name"):
        named_list(str(tmp_path / "x.parquet"))


def test_blank_cells_and_texts_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,concept\n1,dog\n2,\n3, \n4,cat\n")
    (tmp_path / "x.json").write_text('["dog", "", "cat"]')
    assert named_list(str(tmp_path / "x.csv")).num_blank == 2
    assert named_list(str(tmp_path / "x.json")).num_blank == 1


def test_a_table_without_a_header_loses_no_concept(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("dog\ncat\n")
    with pytest.raises(ConceptError, match=r"x\.csv begins with 'dog', and none of these is a name .*\.txt if each"):
        named_list(str(tmp_path / "x.csv"))


def npy() -> bytes:
    data = io.BytesIO()
    np.save(data, np.eye(2))
    return data.getvalue()


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (2, 2)).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.npy", npy(), r"is an array, not text.*go to --concept-embeddings"),
        ("x.txt", picture(), "is an image, not text"),
        ("x.csv", b"PK\x03\x04rest", r"ZIP archive, as .*\.xlsx"),
        ("x.txt", b"dog\ncat\0\n", "binary file, not text: character 7 is a NUL"),
        ("x.txt", "dog\ncat\n".encode("utf-16le"), "UTF-16 without a byte order mark.*iconv -f utf-16le"),
        ("x.txt", b"dog\ncaf\xe9\n", r"line 2: byte 0xe9 is not UTF-8.*iconv -f latin1"),
        ("x.csv", b"concept\ncaf\xe9\n", "line 2: byte 0xe9"),
        ("x.csv", b"concept\ntench, Tinca\n", "line 2 has 2 cells"),
        ("x.csv", b"concept\n\n", "holds no concept"),
        ("x.json", b'{"0": ["n01440764", "tench"]}', "holds an object, not a list"),
        ("x.json", b'["a", 1]', "entry 1 of 2 is '1', which is no text"),
        ("x.json", b'["a", "\\ud800"]', "entry 1 of 2 is .*no text"),
        ("x.json", b'["a"', "is no JSON"),
        ("x.json", b"[]", "holds no concept"),
        ("x.parquet", b"concept\ndog\n", "is no Parquet table"),
    ],
)
def test_what_is_no_list_is_refused_by_what_it_is(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConceptError, match=words) as caught:
        named_list(str(tmp_path / name))
    assert name in str(caught.value)


def test_true_concepts_are_read_and_refused_likewise(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("dog | hound\n\ncat\n".encode("utf-16"))
    assert read_truth(str(tmp_path / "x.txt")).lines == ("dog | hound", "", "cat")
    (tmp_path / "x.json").write_text('["dog | hound", "", "cat"]')
    assert read_truth(str(tmp_path / "x.json")).lines == ("dog | hound", "", "cat")
    (tmp_path / "x.npy").write_bytes(npy())
    with pytest.raises(ConceptError, match=r"x\.npy is an array, not text"):
        read_truth(str(tmp_path / "x.npy"))
