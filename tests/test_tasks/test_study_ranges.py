"""Images of three ranges of a neuron's activations, as the run has drawn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.dissection.errors import UnknownNameError
from tasks.dissection.ranges import RANGES
from tasks.finished import FinishedRun, StudyError
from tasks.publish import plan_publication, publish
from tasks.published import IMAGE_RANGES, NEURONS
from tasks.studies import ranges as module
from tasks.studies.ranges import RangesQuestion, ranges
from tests.test_tasks.conftest import Bench, detailed, labelled
from tests.test_tasks.test_study_cutoff import files_of, invoke


@pytest.fixture
def detailed_run(labelled_bench: Bench, tmp_path: Path) -> FinishedRun:
    """A published run with details."""
    spec = labelled_bench.spec(out=str(tmp_path / "out"))
    labels = labelled(spec)
    publish.fn(plan_publication(labels, spec, detailed(labels.probe, spec)))
    return FinishedRun.at(str(tmp_path / "out"))


def test_the_study_shows_what_the_run_has_drawn_and_its_files_are_the_same_each_time(
    detailed_run: FinishedRun,
) -> None:
    out = Path(detailed_run.out.url)
    said = invoke("ranges", str(out), "--layers", "head,conv", "--neurons", "0,2")
    folder = out / "studies" / "ranges"
    written = files_of(folder)
    assert set(written) == {"ranges.svg", "ranges.png", "ranges.csv", "ranges.parquet", "study.json"}
    with Image.open(folder / "ranges.png") as image:
        assert image.width == 1400 and image.height > 300
    data = pd.read_parquet(folder / "ranges.parquet")
    published = pd.read_parquet(out / IMAGE_RANGES)
    mine = published[published["neuron"].isin([0, 2])]
    columns = ["layer", "neuron", "range", "row", "image", "activation"]
    both = [table[columns].sort_values(["layer", "neuron"], kind="stable").values.tolist() for table in (data, mine)]
    assert both[0] == both[1]
    # 48 images: the first two ranges are the top image, whose activation is the largest.
    extremes = pd.read_parquet(out / NEURONS).set_index(["layer", "neuron"])
    assert (data[data["range"] != "5 %"]["height"] == 1).all()
    for row in data.itertuples():
        low, high = extremes.loc[(row.layer, row.neuron), ["minimum", "maximum"]].astype(float)
        assert row.height == pytest.approx((row.activation - low) / (high - low))
    assert "red" in said and "blue" in said and "green" not in said and "top 0.1 %" in said
    invoke("ranges", str(out), "--layers", "head,conv", "--neurons", "0,2")
    assert files_of(folder) == written


def test_the_most_interpretable_neurons_are_shown_and_no_dead_one(detailed_run: FinishedRun) -> None:
    first = detailed_run.first_labels
    data = ranges(detailed_run, RangesQuestion(("conv",), count=9)).data["ranges"]
    assert set(data["neuron"]) == {0, 1, 2}
    data = ranges(detailed_run, RangesQuestion(count=1)).data["ranges"]
    best = first[first["layer"] == "head"].sort_values("similarity", ascending=False)["neuron"].iloc[0]
    assert set(data["layer"]) == {"head"} and set(data["neuron"]) == {best}


def test_a_dead_neuron_that_is_asked_for_has_images_and_no_height(detailed_run: FinishedRun) -> None:
    found = ranges(detailed_run, RangesQuestion(("conv",), (3,)))
    assert found.data["ranges"]["height"].isna().all()
    assert found.draw() is not None


def test_the_images_of_a_range_stand_side_by_side(detailed_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    strips = []
    strip = module._strip
    monkeypatch.setattr(module, "_strip", lambda images: strips.append(strip(images)) or strips[-1])  # type: ignore[func-returns-value]
    found = ranges(detailed_run, RangesQuestion(("head",), (0,)))
    found.draw()
    assert len(strips) == len(RANGES)
    of_five = strips[2].astype(int)  # two images of 48
    places = [of_five[:, number * (module.SIDE + module.GAP) :][:, : module.SIDE] for number in range(3)]
    for place in places[:2]:
        red, green, blue = place.reshape(-1, 3).mean(0)
        assert red > 150 > 100 > max(green, blue)
    assert (places[2] == 255).all() and not np.array_equal(places[0], places[1])


def test_a_run_without_details_is_told_how_to_get_them(studied: FinishedRun) -> None:
    with pytest.raises(StudyError, match=r"has no details.*--details auto"):
        ranges(studied, RangesQuestion())


def test_layers_and_neurons_that_are_not_there_are_refused(detailed_run: FinishedRun) -> None:
    with pytest.raises(UnknownNameError, match="hed"):
        ranges(detailed_run, RangesQuestion(("hed",)))
    with pytest.raises(StudyError, match="head has 4 neurons, from 0, and none 7"):
        ranges(detailed_run, RangesQuestion(("head",), (1, 7)))
