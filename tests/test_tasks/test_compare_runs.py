"""Published runs side by side: read, compared, shown and written."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from storage.errors import DamagedError, IncompleteError
from storage.files import Folder
from tasks.compare_runs import CompareError, compare_runs, layer_names, write_comparisons
from tasks.compare_tables import comparison_tables
from tasks.dissection.errors import UnknownNameError
from tasks.publish import plan_publication, publish
from tasks.published import LABELS, RUN
from tests.test_tasks.conftest import Bench, labelled

Change = Callable[[dict[str, Any], pd.DataFrame], None]


@pytest.fixture(scope="module")
def labelled_here(labelled_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench of the module's own whose unchanged spec is labelled."""
    own = tmp_path_factory.mktemp("compared") / "labelled"
    shutil.copytree(labelled_once, own)
    files = ("images", "image_embeddings.npy", "concepts.txt", "concept_embeddings.npy")
    return Bench(*(own / name for name in files), str(own / "store"))


@pytest.fixture(scope="module")
def first(labelled_here: Bench) -> Path:
    """A published run, which no test changes."""
    return published(labelled_here, labelled_here.images.parent / "first")


def published(bench: Bench, out: Path, **changes: Any) -> Path:
    spec = bench.spec(out=str(out), **changes)
    publish.fn(plan_publication(labelled(spec), spec))
    return out


def changed(run: Path, out: Path, change: Change) -> Path:
    """A copy of a run, in which other things stand."""
    shutil.copytree(run, out)
    facts, labels = Folder.at(str(out)).read_json(RUN), pd.read_parquet(out / LABELS)
    change(facts, labels)
    Folder.at(str(out)).write_json(RUN, facts)
    labels.to_parquet(out / LABELS)
    return out


def shown(first: Path, other: Path, layers: str | None = None, limit: int = 10) -> str:
    console = Console(width=200, file=io.StringIO())
    for one in compare_runs([str(first), str(other)], layers):
        for table in comparison_tables(one, limit):
            console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def relabel(labels: pd.DataFrame, layer: str, neuron: int, concept: str) -> None:
    labels.loc[(labels["layer"] == layer) & (labels["neuron"] == neuron) & (labels["rank"] == 1), "concept"] = concept


def test_two_runs_of_one_network_differ_as_their_concepts_do(
    labelled_here: Bench, first: Path, tmp_path: Path
) -> None:
    concepts = tmp_path / "concepts.txt"
    concepts.write_text(labelled_here.concepts.read_text().replace("red", "crimson"))
    other = published(labelled_here, tmp_path / "other", concepts=str(concepts), layers=("head",))
    [found] = compare_runs([str(first), str(other)])
    assert found.differing == ["layers", "concepts"]
    [head] = found.layers
    assert (head.name, head.by, len(head.pairs)) == ("head", "number", 4)
    assert (head.pairs["overlap"] == 1).all()
    [row] = head.changed.itertuples()
    assert (row.neuron_after, row.label_before, row.label_after) == (0, "red", "crimson")
    assert row.similarity_before == row.similarity_after and row.margin_before == row.margin_after
    moved = head.concepts[head.concepts["change"] != "same"]
    assert dict(zip(moved["concept"], moved["change"], strict=True)) == {"red": "lost", "crimson": "gained"}
    text = shown(first, other)
    assert "Only the first run has conv." in text and "may not have been on offer" in text
    assert "1 of 4 first labels changed" in text and "not of one scale" not in text


def test_similarities_of_other_functions_are_said_to_be_of_another_scale(first: Path, tmp_path: Path) -> None:
    other = changed(first, tmp_path / "changed", lambda facts, _: facts["spec"].update(similarity="wpmi"))
    assert "not of one scale" in shown(first, other)


def test_a_run_beside_itself_changes_nothing(first: Path) -> None:
    text = shown(first, first)
    assert "The parameters are the same." in text and text.count("100.0%") == 2
    assert "changed" not in text and "gained" not in text and "Note" not in text


def test_a_changed_label_is_shown_as_it_is(first: Path, tmp_path: Path) -> None:
    other = changed(first, tmp_path / "changed", lambda _, labels: relabel(labels, "head", 1, "[red]x[/red]\x1b[2J"))
    text = shown(first, other)
    assert "head: 1 of 4 first labels changed" in text and r"[red]x[/red]\x1b[2J" in text and "75.0%" in text
    assert "head: 1 labels gained" in text


def test_of_other_networks_neurons_are_matched_by_their_top_images(first: Path, tmp_path: Path) -> None:
    def other_network(facts: dict[str, Any], labels: pd.DataFrame) -> None:
        facts["spec"]["target"] = "mynets:other"

    [found] = compare_runs([str(first), str(changed(first, tmp_path / "changed", other_network))])
    conv, head = found.layers
    assert conv.by == head.by == "top images"
    assert head.matches is not None and conv.matches is not None
    assert head.matches["neuron_after"].tolist() == [0, 1, 2, 3] and head.matches["is_mutual"].all()
    assert conv.matches["neuron_after"].isna().tolist() == [False, False, False, True]  # the last one is dead
    assert len(conv.pairs) == 3 and head.changed.empty


def test_of_one_network_only_the_same_layer_s_neurons_correspond_by_number(first: Path) -> None:
    [found] = compare_runs([str(first), str(first)], "conv=head")
    [pair] = found.layers
    assert (pair.name, pair.by) == ("conv → head", "top images")
    assert pair.matches is not None and len(pair.matches) == 4


def test_on_other_images_other_networks_are_matched_by_label_and_this_is_said(first: Path, tmp_path: Path) -> None:
    def other_images(facts: dict[str, Any], labels: pd.DataFrame) -> None:
        facts["spec"]["target"] = "mynets:other"
        facts["digests"]["probe"] = "other"

    other = changed(first, tmp_path / "changed", other_images)
    [found] = compare_runs([str(first), str(other)], "head")
    [head] = found.layers
    assert head.by == "label" and head.matches is not None and head.matches["overlap"].isna().all()
    text = shown(first, other, "head")
    assert "Neurons of head are matched by label alone" in text and "4 of 4 neurons have a match by label" in text
    assert "first labels changed" not in text and "100.0%" not in text


def test_labels_are_compared_of_mutual_matches_alone(first: Path, tmp_path: Path) -> None:
    def two_reds(facts: dict[str, Any], labels: pd.DataFrame) -> None:
        facts["spec"]["target"] = "mynets:other"
        facts["digests"]["probe"] = "other"
        relabel(labels, "head", 1, "red")

    [found] = compare_runs([str(changed(first, tmp_path / "changed", two_reds)), str(first)], "head")
    [head] = found.layers
    assert head.matches is not None and head.matches["neuron_after"].tolist() == [0, 0, 2, 3]
    assert len(head.pairs) == head.matches["is_mutual"].sum() == 3


def test_tables_are_written_whole_for_every_run(first: Path, tmp_path: Path) -> None:
    def new(facts: dict[str, Any], labels: pd.DataFrame) -> None:
        relabel(labels, "conv", 0, "=1+1")
        relabel(labels, "head", 2, "new")

    other = changed(first, tmp_path / "changed", new)
    urls = write_comparisons(str(tmp_path / "cmp"), compare_runs([str(first), str(first), str(other)]))
    assert [Path(url).name for url in urls] == ["changed.csv", "matches.csv", "concepts.csv"]
    table = pd.read_csv(urls[0])
    assert list(
        zip(table["run"], table["layer_after"], table["neuron_after"], table["label_after"], strict=True)
    ) == [
        (str(other), "conv", 0, "'=1+1"),
        (str(other), "head", 2, "new"),
    ]
    assert pd.read_parquet(urls[0].replace(".csv", ".parquet"))["label_after"].tolist() == ["=1+1", "new"]
    matches = pd.read_csv(urls[1])
    assert matches.groupby(["run", "layer_before"]).size().tolist() == [4, 4, 4, 4]
    concepts = pd.read_csv(urls[2])
    assert concepts.loc[concepts["change"] == "gained", "concept"].tolist() == ["'=1+1", "new"]
    assert set(concepts["run"]) == {str(first), str(other)}


def test_a_comparison_without_matches_is_written(first: Path, tmp_path: Path) -> None:
    other = changed(first, tmp_path / "changed", lambda facts, _: facts["digests"].update(probe="other"))
    [found] = comparisons = compare_runs([str(first), str(other)])
    assert {pair.by for pair in found.layers} == {"number"} and found.layers[0].pairs["overlap"].isna().all()
    urls = write_comparisons(str(tmp_path / "cmp"), comparisons)
    matches = pd.read_csv(urls[1])
    assert matches.empty and "neuron_after" in matches.columns


def test_what_cannot_be_compared_is_told_with_the_way_out(first: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"images holds no run\.json"):
        compare_runs([str(first), str(tmp_path / "images")])
    with pytest.raises(UnknownNameError, match=r"no layer 'haed'\. Nearest: head\. The other run has conv, head\."):
        compare_runs([str(first), str(first)], "conv, conv=haed")

    def renamed(facts: dict[str, Any], labels: pd.DataFrame) -> None:
        facts["layers"] = {f"net.{name}": layer for name, layer in facts["layers"].items()}

    other = changed(first, tmp_path / "changed", renamed)
    with pytest.raises(
        CompareError, match=r"first has conv, head, and \S+ has net\.conv, net\.head\. --layers conv=net"
    ):
        compare_runs([str(first), str(other)])


def test_a_run_whose_top_images_are_gone_is_told_as_damaged(first: Path, tmp_path: Path) -> None:
    other = changed(first, tmp_path / "changed", lambda facts, labels: None)
    pd.read_parquet(other / "top_images.parquet").iloc[:0].to_parquet(other / "top_images.parquet")
    with pytest.raises(DamagedError, match=r"changed/top_images\.parquet of a run has no row\. Remove it and run"):
        compare_runs([str(first), str(other)])


def test_layers_are_mapped_each_pair_once() -> None:
    assert layer_names({"a": 1, "b": 1}, {"b": 1, "c": 1}, None) == [("b", "b")]
    assert layer_names({"a": 1, "b": 1}, {"b": 1, "c": 1}, "a=c, b,b=b") == [("a", "c"), ("b", "b")]
