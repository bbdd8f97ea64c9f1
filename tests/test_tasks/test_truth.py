"""True concepts of neurons: lists and tables, several names of one, and neurons that are not known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from storage.errors import TableError
from tasks.dissection.errors import ConceptError
from tasks.evaluation.truth import names_of, read_truth
from tasks.page_rows import _true_concept
from tasks.preflight import preflight
from tasks.publish import plan_publication, publish
from tests.test_tasks.conftest import Bench, Write, labelled


def test_lines_are_of_units_blank_ones_not_known_and_names_may_be_several(write: Write) -> None:
    lines = read_truth(write("truth.txt", "tench | Tinca tinca", "", " Cat ", "")).of("fc", 4)
    assert lines == ("tench | Tinca tinca", "", "Cat", "")
    assert [names_of(line) for line in lines] == [("tench", "Tinca tinca"), (), ("Cat",), ()]


def test_blank_lines_at_the_end_may_be_too_many_and_others_not(write: Write) -> None:
    truth = read_truth(write("truth.txt", "cat", "dog", "", ""))
    assert truth.of("fc", 2) == ("cat", "dog")
    assert truth.of("fc", 3) == ("cat", "dog", "")
    for num_units in (1, 5):
        with pytest.raises(ConceptError, match=rf"--truth .* concepts, and the layer fc has {num_units} neurons"):
            truth.of("fc", num_units)


def test_a_table_of_true_concepts_names_units_by_number(write: Write) -> None:
    truth = read_truth(write("truth.csv", "unit,concept", "2,null", "0,tench", "0,Tinca tinca"))
    assert truth.of("fc", 5) == ("tench | Tinca tinca", "", "null", "", "")
    with pytest.raises(ConceptError, match="3 concepts, and the layer fc has 2"):
        truth.of("fc", 2)
    with pytest.raises(ConceptError, match=r"holds no concept \(1 rows\)"):
        read_truth(write("empty.csv", "unit,concept", "0,"))


def test_named_lists_are_known(write: Write) -> None:
    assert read_truth("imagenet").lines[0] == "tench" and len(read_truth("imagenet").lines) == 1000
    assert len(read_truth("sample").lines) == 20
    with pytest.raises(ConceptError, match=r"no concept file nowhere\.txt"):
        read_truth("nowhere.txt")


def test_a_run_judges_the_neurons_that_are_known_by_any_of_their_names(labelled_bench: Bench, write: Write) -> None:
    spec = labelled_bench.spec(truth=write("truth.txt", "red", "", "GREEN | blue", "green"))
    preflight(spec)
    plan = plan_publication(labelled(spec), spec)
    publish.fn(plan)
    accuracy = plan.out.read_json("run.json")["accuracy"]
    assert accuracy["neurons"] == 3 and accuracy["truth"] == ["red", "", "GREEN | blue", "green"]
    assert accuracy["top1"] == pytest.approx(2 / 3)
    assert b"of 3 neurons" in plan.out.read("report/index.html")


def test_the_page_calls_a_concept_by_the_name_that_was_found() -> None:
    assert _true_concept("GREEN | blue", "blue") == "blue" and _true_concept("GREEN | blue", "green") == "green"
    assert _true_concept("GREEN | blue", "red") == "GREEN" and _true_concept("", "red") is None


def test_a_table_in_nullable_and_categorical_columns_is_read(tmp_path: Path) -> None:
    units, concepts = pd.array([2, 0, 0], dtype="Int64"), pd.Categorical(["cat", None, "dog"])
    pd.DataFrame({"Neuron": units, "Concept": concepts}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"unit": units, "concept": pd.array([7, None, 8], dtype="Int64")}).to_parquet(tmp_path / "b.parquet")
    pd.DataFrame({"concept": concepts}, index=pd.Index(units, name="unit")).to_parquet(tmp_path / "c.parquet")
    assert read_truth(str(tmp_path / "a.parquet")).of("fc", 3) == ("dog", "", "cat")
    assert read_truth(str(tmp_path / "b.parquet")).of("fc", 3) == ("8", "", "7")
    assert read_truth(str(tmp_path / "c.parquet")).of("fc", 3) == ("dog", "", "cat")


def test_tables_of_spreadsheets_are_read(write: Write, tmp_path: Path) -> None:
    assert read_truth(write("a.csv", "unit;concept;", "1;cat, big;", "0;dog;")).of("fc", 2) == ("dog", "cat, big")
    (tmp_path / "b.tsv").write_bytes("Unit\tConcept\r\n1\tcat\r\n0\tdog\r\n".encode("utf-16"))
    assert read_truth(str(tmp_path / "b.tsv")).of("fc", 2) == ("dog", "cat")
    with pytest.raises(TableError, match=r"c\.csv.*line 2 has 3 cells"):
        read_truth(write("c.csv", "unit,concept", "0,tench, Tinca"))
