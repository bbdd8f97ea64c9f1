"""Neurons whose concepts the probe set has no images of, by the stored arrays of the other images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tasks.finished import FinishedRun, StudyError
from tasks.labelling import LabelPlan
from tasks.publish import plan_publication, publish
from tasks.published import TOP_IMAGES, read_table
from tasks.relabel import aside, of_images, steps
from tasks.studies.absent_concepts import AbsentQuestion, absent_concepts
from tasks.studies.absent_groups import classes_of, folds
from tasks.studies.outcome import write
from tests.test_tasks.conftest import Bench, Write, labelled
from tests.test_tasks.test_study_cutoff import files_of
from tests.test_tasks.test_study_similarities import silent


def published(bench: Bench, out: Path, **changes: Any) -> FinishedRun:
    spec = bench.spec(out=str(out), truth=str(bench.concepts), **changes)
    publish.fn(plan_publication(labelled(spec), spec))
    return FinishedRun.at(str(out))


def without(plan: LabelPlan, rows: torch.Tensor) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    with aside(of_images(plan, rows)) as part:
        layers = list(steps(part))
        assert layers == ["conv", "head"]
        return {layer: (part.labels(layer), part.top_images(layer)) for layer in layers}


@pytest.mark.parametrize("similarity", ["soft_wpmi", "rank_reorder", "cos"])
def test_a_subset_is_labelled_as_a_run_on_those_images_alone_is(
    bench: Bench, small_groups: None, similarity: str
) -> None:
    top_k = 5 if similarity == "soft_wpmi" else None
    whole = labelled(bench.spec(similarity=similarity, top_k=top_k))
    paths = whole.probe.index()["path"]
    kept = ~paths.str.contains("red|/03")  # from all groups
    shutil.rmtree(bench.images / "red")
    for path in paths[~kept & ~paths.str.startswith("red")]:
        (bench.images / path).unlink()
    alone = labelled(bench.spec(similarity=similarity, top_k=top_k))
    assert alone.probe.num_images == kept.sum() == 33  # a group and a row
    found = without(whole, torch.from_numpy(np.flatnonzero(kept)))
    for layer, (labels, top_images) in found.items():
        pd.testing.assert_frame_equal(labels, alone.labels(layer), check_exact=True)
        pd.testing.assert_frame_equal(top_images, alone.top_images(layer), check_exact=True)


def test_without_blue_images_the_study_says_what_a_run_without_them_does(
    studied: FinishedRun, labelled_bench: Bench, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[pd.DataFrame] = []

    def seen(run: object, titles: object, top_images: pd.DataFrame) -> tuple[list[Any], list[str]]:
        drawn.append(top_images)
        return [], []

    with monkeypatch.context() as patch:
        patch.setattr("tasks.studies.absent_concepts.strips", seen)
        found = absent_concepts(studied, AbsentQuestion([write("blues.txt", "navy | blue")], resamples=50), silent)
    shutil.rmtree(labelled_bench.images / "blue")  # the first rows: all others have other numbers
    alone = published(labelled_bench, tmp_path / "alone")
    [row] = found.data["neurons"].to_dict("records")
    labels = alone.labels.query("layer == 'head' and neuron == 2")
    assert row["label"] == labels["concept"].iloc[0] and row["similarity"] == labels["similarity"].iloc[0]
    rank = labels["concept"].tolist().index("blue") + 1
    assert (row["rank"], row["within"]) == (rank, rank == 1)
    assert (row["present_label"], row["present_rank"], row["truth"]) == ("blue", 1, "blue")
    top = read_table(alone.out, TOP_IMAGES).query("layer == 'head' and neuron == 2")
    assert studied.probe.paths(drawn[0]["row"].to_numpy())[: len(top)].tolist() == top["image"].tolist()
    absent, present = found.data["groups"].to_dict("records")
    assert (absent["images"], absent["images_left_out"], absent["neurons"]) == ("absent", 12, 1)
    assert absent["right"] == (rank == 1) and present["right"] == 1 and absent["within_by_chance"] == 1 / 4


def test_of_a_concept_without_images_the_labels_are_those_of_the_run(
    labelled_bench: Bench, write: Write, tmp_path: Path
) -> None:
    shutil.rmtree(labelled_bench.images / "red")
    run = published(labelled_bench, tmp_path / "out")
    told: list[str] = []
    found = absent_concepts(run, AbsentQuestion([write("reds.txt", "red")], resamples=50), told.append)
    assert not told and "labels are those of the run" in str(found.shown[0])
    [row] = found.data["groups"].to_dict("records")
    assert (row["images"], row["images_left_out"]) == ("absent", 0)
    first = run.first_labels.query("layer == 'head' and neuron == 0")["concept"].iloc[0]
    assert found.data["neurons"]["label"].tolist() == [first]
    assert found.data["neurons"]["present_label"].isna().all()


def test_by_default_each_class_is_left_out_once_and_the_files_are_the_same(
    studied: FinishedRun, tmp_path: Path
) -> None:
    told: list[str] = []
    for again in ("1", "2"):
        found = absent_concepts(studied, AbsentQuestion(resamples=50, seed=3), told.append)
        write(studied, "absent-concepts", found, str(tmp_path / again))
    assert sorted(found.data["neurons"]["truth"]) == ["blue", "green", "grey", "red"]
    assert found.data["groups"]["group"].tolist() == ["fold 1"] * 2 + ["fold 2"] * 2 + ["all"] * 2
    assert len(told) == 4 and "without the 24 images of fold 1" in told[0]
    written = files_of(tmp_path / "1")
    assert "absent-concepts.svg" in written and written == files_of(tmp_path / "2")


def test_classes_are_dealt_out_evenly_and_by_seed() -> None:
    truth = {neuron: (f"great white {neuron}",) for neuron in range(7)}
    classes = pd.Series([f"Great_White_{neuron % 5}" for neuron in range(20)] + [None])
    dealt = folds(classes, truth, 2, seed=0)
    assert sorted(len(group.concepts) for group in dealt) == [2, 3]  # no class is called 5 or 6
    assert sorted(neuron for group in dealt for neuron in group.neurons(truth)) == [0, 1, 2, 3, 4]
    assert dealt == folds(classes, truth, 2, seed=0)
    assert len({folds(classes, truth, 2, seed=seed)[0].concepts for seed in range(9)}) > 1
    [group] = folds(classes, {0: ("great white 0",)}, 1, seed=0)
    assert group.rows_without(classes).tolist() == [row for row in range(21) if row % 5 or row == 20]


def test_images_of_a_flat_folder_have_no_class() -> None:
    with pytest.raises(StudyError, match=r"0 classes .* --absent LIST"):
        folds(pd.Series([None, None], dtype=object), {0: ("red",)}, 2, seed=0)


def test_what_cannot_be_left_out_is_refused(studied: FinishedRun, labelled_bench: Bench, write: Write) -> None:
    def refused(match: str, **asked: Any) -> None:
        with pytest.raises(StudyError, match=match):
            absent_concepts(studied, AbsentQuestion(**asked), silent)

    refused("No neuron of head detects a concept of dogs", absent=[write("dogs.txt", "Chihuahua")])
    refused("All images are of colours", absent=[write("colours.txt", "red", "green", "blue", "grey")])
    refused(r"true concepts of conv are not known.*--truth", layer="conv")
    refused(r"4 classes .* and 5 groups", folds=5)
    (labelled_bench.images.parent.parent / "more").mkdir()
    other = write("more/dogs.txt", "red")
    refused("Two lists of one name", absent=[write("dogs.txt", "red"), other])
    assert classes_of(studied.probe).value_counts().to_dict() == dict.fromkeys(("blue", "green", "grey", "red"), 12)


def test_of_top_images_alone_no_image_can_be_left_out(labelled_bench: Bench, tmp_path: Path) -> None:
    run = published(labelled_bench, tmp_path / "out", activations="top")
    with pytest.raises(StudyError, match="--activations float16 or float32"):
        absent_concepts(run, AbsentQuestion(), silent)


def test_a_truth_that_the_run_was_not_given_is_taken(studied: FinishedRun, write: Write) -> None:
    truth = write("truth.txt", "red", "", "", "")
    found = absent_concepts(studied, AbsentQuestion(layer="conv", truth=truth, folds=1, resamples=50), silent)
    assert found.data["neurons"]["truth"].tolist() == ["red"]
    assert found.data["groups"]["group"].tolist() == ["fold 1", "fold 1"]
