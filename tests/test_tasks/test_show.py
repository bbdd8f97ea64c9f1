"""What the terminal shows of a run: the labels that are searched for, counted as the report counts them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from tasks.announce import announcement
from tasks.dissection.errors import UnknownNameError
from tasks.finished import FinishedRun
from tasks.label_tables import num_distinct
from tasks.published import LABELS
from tasks.report.summary import summarise
from tasks.show import Filter, labels_tables, run_lines


def shown(run: FinishedRun, **wanted: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    for table in labels_tables(run.out.url, Filter(**wanted)):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rename(run: FinishedRun, names: dict[str, str]) -> None:
    labels = run.labels.assign(concept=run.labels["concept"].replace(names))
    labels.to_parquet(Path(run.out.url) / LABELS)


def test_quotes_find_a_label_that_is_just_this(studied: FinishedRun) -> None:
    first = studied.first_labels
    first.assign(concept=first["concept"].replace({"green": "red wine"})).to_parquet(Path(studied.out.url) / LABELS)

    def found(concept: str) -> str:
        return shown(studied, layer="head", concept=concept).splitlines()[0].strip()

    assert found("RED") == "head: 2 neurons" and found('"RED"') == "head: 1 neuron"
    assert found('"red wine"') == "head: 1 neuron" and found('"re"') == "head: 0 neurons"
    assert found("#2") == "head: 1 neuron"


def test_a_dead_neuron_has_no_label_to_find_nor_to_count(studied: FinishedRun) -> None:
    assert "(dead)" in shown(studied, layer="conv")
    assert "conv: 0 neurons" in shown(studied, layer="conv", concept="dead")
    facts = studied.facts["layers"]["conv"]
    assert facts["dead"] == 1 and facts["neurons"] == 4 and facts["distinct_labels"] == 3
    said = "\n".join(run_lines(studied.facts, studied.out, 8))
    assert "4 neurons, 1 dead, 3 labels" in said
    row = next(line for line in announcement(studied.out).splitlines() if line.startswith("| conv"))
    assert "dead" not in row and "red, green, blue |" in row


def test_the_report_counts_as_the_tables_do(studied: FinishedRun) -> None:
    from tasks.page_rows import Details, layer_rows
    from tasks.published import TOP_IMAGES, read_table

    rename(studied, {"blue": "red"})
    labels, top = (read_table(studied.out, name) for name in (LABELS, TOP_IMAGES))
    for layer in studied.layers:
        [summary] = summarise([layer_rows(layer, None, labels, top, Details())])
        assert summary.num_distinct == num_distinct(labels[labels["layer"] == layer]) < 4


@pytest.mark.parametrize(
    ("flags", "number"),
    [([None, None], 2), ([float("nan")] * 2, 2), (pd.array([None, True], dtype="boolean"), 1), ([False, True], 1)],
)
def test_where_nobody_knows_who_is_dead_labels_count(flags: Any, number: int) -> None:
    assert num_distinct(pd.DataFrame({"rank": 1, "concept": ["a", "b"], "is_dead": flags})) == number


@pytest.mark.parametrize("neuron", [4, 999, -1])
def test_a_neuron_beyond_the_layer_is_refused_with_its_number_of_neurons(studied: FinishedRun, neuron: int) -> None:
    with pytest.raises(UnknownNameError, match=rf"no neuron {neuron}\. Layer head has 4 neurons: 0 to 3"):
        shown(studied, layer="head", neuron=neuron)
    with pytest.raises(UnknownNameError, match=r"Of 2 layers the largest, conv, has 4 neurons"):
        shown(studied, neuron=neuron)
    assert "head: 1 neuron" in shown(studied, layer="head", neuron=3)


def test_a_layer_that_is_not_there_is_refused_with_the_nearest(studied: FinishedRun) -> None:
    with pytest.raises(UnknownNameError, match=r"no layer 'haed'\. Nearest: head"):
        shown(studied, layer="haed")
