"""The folder `report` of a published run: what is in it, what is kept, and what is removed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.errors import DamagedError
from storage.files import Folder
from storage.layout import place
from tasks import page
from tasks.page import _details, _few_enough
from tasks.page_rows import layer_rows
from tasks.publish import plan_publication, publish, republish_report
from tasks.published import IMAGE_RANGES, INPUTS, LABELS, NEURONS, REPORT, SIMILAR_NEURONS, TOP_IMAGES
from tasks.report.rows import Activations, Input, Range, Similar, TopImage
from tests.test_tasks.conftest import Bench, labelled


@pytest.fixture
def out(labelled_bench: Bench, tmp_path: Path) -> Folder:
    """A published run."""
    spec = labelled_bench.spec(out=str(tmp_path / "out"))
    plan = plan_publication(labelled(spec), spec)
    publish.fn(plan)
    return plan.out


def details_of(image: str) -> dict[str, pd.DataFrame]:
    """Tables of details of the neuron 0 of `head`."""
    of = {"layer": ["head"], "neuron": [0]}
    moments = dict.fromkeys(("mean", "std", "minimum", "maximum"), 0.5)
    drawn = {"row": [47, 46], "image": [image, "drawn.png"], "activation": [2.0, 1.0]}
    return {
        NEURONS: pd.DataFrame(of | moments | {"edges": [[0.0, 1.0, 2.0]], "counts": [[40, 8]]}),
        IMAGE_RANGES: pd.DataFrame({"layer": "head", "neuron": 0, "range": ["5 %", "0.1 %"]} | drawn),
        SIMILAR_NEURONS: pd.DataFrame(of | {"by": ["label"], "rank": [1], "other": [2], "value": [0.25]}),
        INPUTS: pd.DataFrame(of | {"rank": [1], "input_layer": ["conv"], "input": [1], "weight": [-0.5]}),
    }


def read_all(out: Folder) -> dict[str, bytes]:
    return {found.path: out.read(found.path) for found in out.files() if found.path.startswith("report/")}


def test_a_report_made_anew_is_the_same_and_vouched_for(out: Folder) -> None:
    before, was = read_all(out), out.read("run.json")
    out.remove_file("report/data/images-0.js")
    assert republish_report(out.url) == out.path(REPORT)
    assert read_all(out) == before and out.read("run.json") == was


def test_what_an_earlier_report_left_is_removed_and_nothing_else(out: Folder) -> None:
    run = out.read_json("run.json")
    ours = {name: out.read(name) for name in run["files"] if name.startswith("report/")}
    left = ("report.html", "report/layers/9-gone.html", "report/data/9-index.js", "report/data/images-99.js")
    own = ("report/notes.html", "report/data/own.js", "report/figures/1.png", "reports.txt")
    for name in (*left, *own):
        out.write(name, b"x")
    out.write_json("run.json", run | {"files": run["files"] | dict.fromkeys(left, "0" * 64)})
    republish_report(out.url)
    assert not any(out.exists(name) for name in left)
    assert all(out.read(name) == b"x" for name in own)
    assert {name: out.read(name) for name in ours} == ours
    assert out.read_json("run.json")["files"] == run["files"]


def test_tables_of_details_are_shown_where_a_run_has_them(out: Folder) -> None:
    assert b"drawn.png" not in b"".join(read_all(out).values())
    image = str(pd.read_parquet(out.path(TOP_IMAGES))["image"].iloc[0])
    for name, table in details_of(image).items():
        table.to_parquet(out.path(name))
    republish_report(out.url)
    files = read_all(out)
    assert b'[["0.1 %",[' in files["report/data/1-neurons-0.js"]
    assert b'"drawn.png","/9j/' in files["report/data/images-0.js"]


@pytest.mark.parametrize(
    ("column", "values"), [("edges", ["no list"]), ("counts", [["a", "b"]]), ("mean", ["x"]), ("neuron", [0.5])]
)
def test_a_damaged_table_of_details_is_named(out: Folder, column: str, values: list[object]) -> None:
    details_of("red/0.png")[NEURONS].assign(**{column: values}).to_parquet(out.path(NEURONS))
    with pytest.raises(DamagedError, match=f"{NEURONS} is none of a run: its column '{column}'"):
        republish_report(out.url)


def test_rows_hold_what_the_tables_say(out: Folder) -> None:
    labels, top = (pd.read_parquet(out.path(name)) for name in (LABELS, TOP_IMAGES))
    for name, table in details_of("red/0.png").items():
        table.to_parquet(out.path(name))
    details = _details(out)
    # As tables are in which somebody has sorted.
    layer = layer_rows("head", ["RED | scarlet", "blue", "", ""], labels.iloc[::-1], top.iloc[::-1], details)
    first, second, third, _ = layer.neurons
    assert [neuron.index for neuron in layer.neurons] == [0, 1, 2, 3]
    assert first.first_label == "red"
    assert first.labels[0].is_interpretable is True and first.labels[0].null_quantile is not None
    of = labels[(labels["layer"] == "head") & (labels["neuron"] == 0) & (labels["rank"] == 1)].iloc[0]
    scores = (first.labels[0].similarity, first.labels[0].log_prior, first.labels[0].margin)
    assert scores == (of["similarity"], of["log_prior"], of["margin"])
    activations = [image.activation for image in first.top_images]
    assert activations == sorted(activations, reverse=True)
    assert (first.truth, second.truth, third.truth) == ("red", "blue", None)
    assert first.activations == Activations(0.5, 0.5, 0.5, 0.5, (0.0, 1.0, 2.0), (40, 8))
    assert first.ranges == (
        *(Range("0.1 %", (TopImage("drawn.png", 1.0),)), Range("5 %", (TopImage("red/0.png", 2.0),))),
    )
    assert first.similar == (Similar("label", 2, 0.25),) and first.inputs == (Input("conv", 1, -0.5),)
    assert second.activations is None and second.ranges == second.similar == second.inputs == ()


@pytest.mark.parametrize(
    ("edges", "counts"),
    [([], []), ([0.0], []), ([0.0, 1.0], [1, 2]), ([0.0, float("nan")], [1]), ([0.0, 1.0], [float("nan")])],
)
def test_a_histogram_that_cannot_be_drawn_is_left_out(out: Folder, edges: list[float], counts: list[float]) -> None:
    table = details_of("red/0.png")[NEURONS].assign(edges=[np.array(edges)], counts=[np.array(counts)])
    table.to_parquet(out.path(NEURONS))
    republish_report(out.url)
    first = read_all(out)["report/data/1-neurons-0.js"].decode()
    assert json.loads(first.partition(",")[2].removesuffix(");\n"))[0][3] is None


def test_the_report_of_a_run_in_its_store_is_nothing_foreign(labelled_bench: Bench) -> None:
    spec = labelled_bench.spec(out=None)
    plan = plan_publication(labelled(spec), spec)
    publish.fn(plan)
    names = [name for name in plan.out.read_json("run.json")["files"] if name.startswith("report/")]
    assert len(names) == 8
    assert all(place(f"runs/{plan.digest}/{name}") is not None for name in names)
    assert place(f"runs/{plan.digest}/report/own.html") is None


def test_with_too_many_images_neurons_show_fewer_and_cards_fewer_still(monkeypatch: pytest.MonkeyPatch) -> None:
    top = pd.DataFrame({"layer": "fc", "neuron": [0, 0, 0, 1, 1, 1], "rank": [1, 2, 3] * 2, "row": range(6)})
    drawn = pd.DataFrame({"layer": "fc", "neuron": [0, 0, 1], "range": "1 %", "row": [10, 11, 12]})
    none = pd.DataFrame()
    for most, ranks, ranges in ((9, 3, 3), (8, 3, 2), (7, 3, 0), (4, 2, 0), (1, 1, 0)):
        monkeypatch.setattr(page, "MAX_THUMBNAILS", most)
        shown, of_ranges = _few_enough(top, drawn)
        assert (shown["rank"].max(), len(of_ranges)) == (ranks, ranges)
        assert len(_few_enough(top, none)[1]) == 0
