"""The same neurons labelled by several similarity functions, of what a run has stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.errors import EmbeddingsError
from tasks.dissection.errors import ConceptError, UnknownNameError
from tasks.dissection.similarity import SIMILARITIES
from tasks.finished import FinishedRun, StudyError
from tasks.labelling import LabelPlan
from tasks.publish import plan_publication, publish
from tasks.studies.outcome import write
from tasks.studies.similarities import SimilaritiesQuestion, agreements, similarities
from tests.test_tasks.conftest import Bench, labelled
from tests.test_tasks.test_study_cutoff import files_of

ASKED = SimilaritiesQuestion(resamples=50)


def silent(_: str) -> None:
    pass


def test_each_function_labels_as_a_run_with_it_does_and_no_network_is_loaded(
    studied: FinishedRun, labelled_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("a target may be code of somebody's own")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.observation.load_target", refuse)
        patch.setattr("tasks.observation.load_clip", refuse)
        found = similarities(studied, ASKED, silent)
    labels, functions = found.data["labels"], found.data["functions"].set_index(["layer", "similarity"])
    for name in SIMILARITIES:
        # Spec by spec: top_k is a hyperparameter of the run's own function alone.
        own: LabelPlan = labelled(labelled_bench.spec(similarity=name, top_k=5 if name == "soft_wpmi" else None))
        assert not own.missing
        for layer in ("conv", "head"):
            first = own.labels(layer).query("rank == 1")
            mine = labels[labels["layer"] == layer]
            assert mine[name].tolist() == first["concept"].tolist()
            assert mine[f"{name}_similarity"].tolist() == first["similarity"].tolist()
        right = own.labels("head").query("rank == 1")["concept"] == ["red", "green", "blue", "grey"]
        assert functions.loc[("head", name), "top1"] == right.mean()
    assert functions.loc[("head", "soft_wpmi"), "top1"] == 1  # as head is made
    assert labels.query("layer == 'head'")["truth"].tolist() == ["red", "green", "blue", "grey"]
    assert labels.query("layer == 'conv'")["truth"].isna().all() and functions.loc["conv", "top1"].isna().all()


def test_what_was_labelled_is_not_again_and_the_files_are_the_same(studied: FinishedRun, tmp_path: Path) -> None:
    asked = SimilaritiesQuestion(("cos", "soft_wpmi"), ("head",), resamples=50)
    told: list[str] = []
    for again in (False, True):
        write(studied, "similarities", similarities(studied, asked, told.append), str(tmp_path / str(again)))
    assert told == ["Labelling head by cos"]  # the run itself has labelled by the other
    written = files_of(tmp_path / "False")
    assert "similarities.png" in written and written == files_of(tmp_path / "True")


def test_agreement_is_the_share_of_live_neurons_with_the_same_first_label() -> None:
    labels = pd.DataFrame(
        {
            "layer": ["a", "a", "a", "b"],
            "is_dead": [False, False, True, False],
            "cos": ["red", "blue", "(dead)", "green"],
            "wpmi": ["Red", "grey", "(dead)", "green"],
        }
    )
    found = agreements(labels, ["cos", "wpmi"], ["a", "b"], ASKED).set_index("layer")
    assert found["neurons"].to_dict() == {"a": 2, "b": 1, "all": 3}
    assert found["share"].to_dict() == pytest.approx({"a": 0.5, "b": 1.0, "all": 2 / 3})
    assert found.loc["b", ["low", "high"]].tolist() == [1, 1]


def test_of_top_images_alone_the_functions_that_look_at_more_are_left_out(
    labelled_bench: Bench, tmp_path: Path
) -> None:
    spec = labelled_bench.spec(out=str(tmp_path / "out"), activations="top", layers=("head",))
    publish.fn(plan_publication(labelled(spec), spec))
    run = FinishedRun.at(str(tmp_path / "out"))
    found = similarities(run, ASKED, silent)
    assert found.data["functions"]["similarity"].unique().tolist() == ["soft_wpmi", "wpmi"]
    assert "not enough for rank_reorder, cos, cos_cubed" in str(found.shown[0])
    with pytest.raises(ValueError, match="Use --activations float16 or float32"):
        similarities(run, SimilaritiesQuestion(("cos", "wpmi")), silent)


def test_a_function_that_the_embeddings_are_nothing_for_is_left_out(labelled_bench: Bench, tmp_path: Path) -> None:
    # The reference variant of rank reorder takes a power of the mean CLIP similarity, here negative.
    np.save(labelled_bench.concept_embeddings, -np.load(labelled_bench.concept_embeddings))
    spec = labelled_bench.spec(out=str(tmp_path / "out"), variant="reference", layers=("head",))
    publish.fn(plan_publication(labelled(spec), spec))
    run = FinishedRun.at(str(tmp_path / "out"))
    found = similarities(run, ASKED, silent)
    assert found.asked["similarities"] == ["soft_wpmi", "wpmi", "cos", "cos_cubed"]
    assert "rank_reorder is left out" in str(found.shown[0]) and "mean CLIP similarity" in str(found.shown[0])
    with pytest.raises(EmbeddingsError, match="Use --variant paper"):
        similarities(run, SimilaritiesQuestion(("cos", "rank_reorder")), silent)


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (SimilaritiesQuestion(("cos",)), StudyError, "give two or more"),
        (SimilaritiesQuestion(("cos", "soft_wmpi")), UnknownNameError, "Nearest: soft_wpmi"),
        (SimilaritiesQuestion(layers=("tail",)), UnknownNameError, "The run has conv, head"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(
    studied: FinishedRun, asked: SimilaritiesQuestion, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        similarities(studied, asked, silent)


def test_a_run_whose_concepts_or_store_have_changed_is_refused(studied: FinishedRun, labelled_bench: Bench) -> None:
    kept = labelled_bench.concepts.read_text()
    for other in (kept.replace("grey", "gray"), "\n".join(reversed(kept.split())) + "\n"):
        labelled_bench.concepts.write_text(other)
        with pytest.raises(StudyError, match=r"concept list .* has changed since.*[Rr]un again"):
            similarities(studied, ASKED, silent)
    labelled_bench.concepts.write_text(kept)
    store = Path(labelled_bench.store)
    (store / "activations").rename(store / "away")
    with pytest.raises(LookupError, match="activations of the run are not there any more"):
        similarities(studied, ASKED, silent)
    assert not (store / "activations").exists()
    store.rename(store.parent / "gone")
    with pytest.raises(LookupError, match=r"which is not there .*--store URL"):
        similarities(studied, ASKED, silent)


def test_files_named_from_another_folder_are_found_and_missing_ones_told(
    labelled_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(labelled_bench.concepts.parent)
    spec = labelled_bench.spec(out=str(tmp_path / "out"), concepts=labelled_bench.concepts.name)
    publish.fn(plan_publication(labelled(spec), spec))
    run = FinishedRun.at(str(tmp_path / "out"))
    assert run.plan_of(run.layers)
    monkeypatch.chdir(tmp_path / "out")
    again = FinishedRun.at(str(tmp_path / "out"))
    assert again.plan_of(run.layers).digest == run.plan.digest
    labelled_bench.concepts.rename(tmp_path / "away.txt")
    with pytest.raises(ConceptError, match=r"There is no concept file"):
        again.plan_of(run.layers)
