"""Weights and the concepts at their ends; classes predicted from the neuron that contributes most."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from flows.__main__ import cli
from storage import arrays
from storage.completion import Rows
from storage.errors import IncompleteError
from tasks.finished import FinishedRun, StudyError
from tasks.studies.namesakes import Namesakes
from tasks.studies.outcome import write
from tasks.studies.predictions import (
    AVERAGE,
    OF_IMAGE,
    OF_NETWORK,
    PUBLISHED,
    PredictionsQuestion,
    nearest_class,
    predictions,
    weighed,
)
from tasks.studies.weights import WeightsQuestion, _summary, binned, correlation, curve, ordered, weights
from tasks.studies.wiring import text_similarities, wiring_of
from tests.test_tasks.conftest import Bench, Write
from tests.test_tasks.test_evaluation import OneHot, run_of

COLOURS = "tests.tiny_models:colours"


def random_pair(seed: int = 0, shape: tuple[int, int] = (6, 9)) -> tuple[Any, Any]:
    """Weights, and similarities that go with them; some have none."""
    random = np.random.default_rng(seed)
    W = random.normal(size=shape).astype(np.float32)
    S = (0.5 * W + random.normal(size=shape)).astype(np.float32)
    S[:, 2] = np.nan
    return W, S


# Weights


def test_weights_are_ordered_with_their_similarity_and_those_without_one_left_out() -> None:
    w, s = ordered(np.array([[1.0, 3.0], [2.0, 5.0]]), np.array([[0.1, 0.3], [0.2, np.nan]]))
    assert w.tolist() == [3.0, 2.0, 1.0] and s.tolist() == [0.3, 0.2, 0.1]


def test_the_curve_is_of_the_highest_weights_from_a_few_to_all() -> None:
    W, S = random_pair()
    found = curve(W, S)
    w, s = ordered(W, S)
    assert found["k"].iloc[0] == 10 and found["k"].iloc[-1] == 48 and found["k"].is_monotonic_increasing
    for row in found.itertuples():
        assert row.mean_similarity == pytest.approx(s[: row.k].mean())
        assert row.r == pytest.approx(np.corrcoef(w[: row.k], s[: row.k])[0, 1])


def test_groups_of_weights_are_as_large_as_each_other_and_rise() -> None:
    W, S = random_pair()
    found = binned(W, S)
    assert len(found) == 20 and found["weight"].is_monotonic_increasing
    w, s = ordered(W, S)
    assert found["weight"].iloc[0] == pytest.approx(w[-3:].mean())
    assert found["similarity"].iloc[0] == pytest.approx(s[-3:].mean())


def test_a_correlation_is_pearson_s_and_its_neurons_are_drawn_anew_whole() -> None:
    W, S = random_pair()
    w, s = ordered(W, S)
    for k in (12, 48):
        assert correlation(W, S, k).value() == pytest.approx(np.corrcoef(w[:k], s[:k])[0, 1])
    twice = np.array([[2, 0, 1, 1, 0, 2]])
    rows = np.repeat(np.arange(6), twice[0])
    known = np.isfinite(S[rows])
    expected = np.corrcoef(W[rows][known], S[rows][known])[0, 1]
    assert correlation(W, S, 48).of_counts(twice)[0] == pytest.approx(expected)


def test_chance_is_what_labels_of_other_neurons_give() -> None:
    W, S = random_pair(shape=(20, 30))
    found = _summary("CLIP", W, S, 580, WeightsQuestion(resamples=100))
    assert found["low"] < found["r"] < found["high"]
    assert 0 < found["by_chance"] < 0.15 < found["low"]


def test_a_cosine_of_texts_is_of_the_nearest_name_and_of_none_where_one_is_missing() -> None:
    def encode(texts: list[str]) -> Any:
        return np.eye(3, dtype=np.float32)[["abc".index(text[0]) for text in texts]]

    found = text_similarities([("a", "b"), (), ("c",)], ["b", None, "c"], encode)
    np.testing.assert_array_equal(found, [[1, np.nan, 0], [np.nan] * 3, [0, np.nan, 1]])


def test_what_a_layer_reads_is_found_and_both_ends_have_names(studied: FinishedRun, write: Write) -> None:
    run = studied
    found = wiring_of(run, "head", COLOURS, None, "weights")
    assert found.input_layer == "conv" and found.weight.shape == (4, 4)
    assert found.outputs == (("red",), ("green",), ("blue",), ("grey",))
    assert found.inputs == ("red", "green", "blue", None)
    own = wiring_of(run, "head", COLOURS, write("names.txt", "rouge | red", "", "blue", "grey"), "weights")
    assert own.outputs[:2] == (("rouge", "red"), ())
    with pytest.raises(StudyError, match=r"study weights would run: type --target tests\.tiny_models:colours"):
        wiring_of(run, "head", None, None, "weights")
    with pytest.raises(StudyError, match=r"None of the recorded layers \(conv, head\) gives what conv reads"):
        wiring_of(run, "conv", COLOURS, None, "weights")


def test_high_weights_connect_like_concepts_in_the_tiny_network(studied: FinishedRun, tmp_path: Path) -> None:
    found = weights(studied, WeightsQuestion(target=COLOURS, top_k=3, resamples=50))
    summary = found.data["summary"]
    assert summary["weights"].tolist() == [12, 10]  # fewer than ten tell nothing
    assert summary["r"].iloc[0] > 0.8
    highest = found.data["highest"]
    assert len(highest) == 12 and highest["concept"].iloc[:3].tolist() == highest["label"].iloc[:3].tolist()
    assert highest["weight"].tolist() == sorted([2.0] * 3 + [-1.0] * 6 + [0.5] * 3, reverse=True)
    assert found.asked["reads"] == "conv" and found.asked["layer"] == "head"
    for folder in ("one", "other"):
        write(studied, "weights", found, str(tmp_path / folder))
    of_both = [{path.name: path.read_bytes() for path in (tmp_path / x).iterdir()} for x in ("one", "other")]
    assert of_both[0] == of_both[1] and "weights.svg" in of_both[0]
    with Image.open(tmp_path / "one" / "weights.png") as image:
        assert image.size[0] > 1000


def test_too_few_named_neurons_have_no_correlation(studied: FinishedRun, write: Write) -> None:
    one = write("one.csv", "unit,concept", "0,red")
    with pytest.raises(StudyError, match=r"head has 3 weights between neurons that have a concept.* 10 at least"):
        weights(studied, WeightsQuestion(target=COLOURS, truth=one))


def test_neurons_without_a_truth_stand_for_their_labels(labelled_bench: Bench, tmp_path: Path) -> None:
    run_of(labelled_bench, tmp_path / "out")
    found = weights(FinishedRun.at(str(tmp_path / "out")), WeightsQuestion(target=COLOURS, resamples=0))
    assert set(found.data["highest"]["concept"]) == {"red", "green", "blue", "grey"}


# Predictions


def test_the_class_is_that_of_the_label_of_the_neuron_that_contributes_most(studied: FinishedRun) -> None:
    run = studied
    found = predictions(run, PredictionsQuestion(target=COLOURS, resamples=50))
    images = found.data["images"]
    rows = Rows(0, run.plan.probe.num_images)
    outputs, inputs = (arrays.read_rows(run.plan.activations.group(), name, rows) for name in ("head", "conv"))
    weight = wiring_of(run, "head", COLOURS, None, "predictions").weight
    names = ["red", "green", "blue", "grey"]
    for row, image in enumerate(images.itertuples()):
        said = int(outputs[row].argmax())
        contributions = weight[said] * inputs[row]
        most = int(contributions[:3].argmax())
        assert (image.said, image.neuron, image.label) == (names[said], most, names[most])
        assert image.contribution == pytest.approx(contributions[most], rel=1e-5)
        assert names[most] == image.CLIP
    accuracy = found.data["accuracy"].set_index("against")
    right = (images["CLIP"] == images["class"]).mean()
    assert accuracy.loc[OF_IMAGE, "share"] == pytest.approx(right) and right >= 0.75  # grey has no neuron
    assert accuracy.loc[OF_NETWORK, "share"] == pytest.approx((images["CLIP"] == images["said"]).mean())
    assert accuracy.loc[OF_IMAGE, "by_chance"] < 0.5
    classes = found.data["classes"].set_index("class")
    assert classes.loc["red", "CLIP"] == 1.0 and classes["images"].tolist() == [12] * 4


def test_a_label_counts_only_where_its_neuron_contributes_something(studied: FinishedRun) -> None:
    from tasks.studies.predictions import _most

    neuron, value = _most(torch.tensor([[1.0, 3.0], [-1.0, 5.0], [0.0, -2.0]]), torch.tensor([False, True]))
    assert neuron.tolist() == [0, -1, -1] and value.tolist() == [1.0, 0.0, 0.0]


def test_classes_of_one_name_are_right_for_either() -> None:
    found = Namesakes.of([("crane", "grus"), ("Crane",), ("dog",), ("grus", "heron"), (), ()])
    predicted, true = np.array([0, 1, 0, 2, 1, -1, 4, 3, 0]), np.array([1, 0, 3, 0, 3, 0, 5, -1, 0])
    right = [True, True, True, False, False, False, False, False, True]
    assert found.is_right(predicted, true).tolist() == right and found.num_with_one == 3
    none = Namesakes.of([("a",), ("b",)])
    assert none.num_with_one == 0 and none.is_right(np.array([0, 1]), np.array([0, 0])).tolist() == [True, False]


def test_a_class_that_shares_its_name_is_predicted_by_that(studied: FinishedRun, write: Write) -> None:
    truth = write("truth.txt", "red", "green", "red", "grey")  # the blue neuron is called red too
    table = write("shown.csv", "path,concept", *(f"red/{i:02d}.jpg,red" for i in range(0, 12, 2)))
    asked = PredictionsQuestion(target=COLOURS, truth=truth, image_labels=table, resamples=0)
    found = predictions(studied, asked)
    images = found.data["accuracy"].set_index(["against", "space"])["share"]
    assert images[OF_IMAGE, "CLIP"] == 1.0
    assert found.data["classes"].set_index("class").loc["red", "CLIP"] == 1.0
    said = [line for line in found.shown if isinstance(line, str)]
    assert said[0].startswith("2 classes have a name in common with another class")
    assert said[1].startswith("The network itself says the class of 100.00% of 6 images")


def test_two_spaces_are_averaged_as_in_the_text_and_weighed_as_in_the_code() -> None:
    one, other = np.array([[1.0, 0.2], [0.0, np.nan]], np.float32), np.array([[0.0, 0.4], [1.0, np.nan]], np.float32)
    found = weighed({"CLIP": one, "sentence": other})
    assert list(found) == ["CLIP", "sentence", AVERAGE, PUBLISHED]
    assert found[AVERAGE][0].tolist() == pytest.approx([0.5, 0.3])
    assert found[PUBLISHED][0].tolist() == pytest.approx([0.75, 0.25])
    assert [nearest_class(found[name]).tolist() for name in found] == [[0, 0], [1, 0], [0, 0], [0, 0]]
    assert nearest_class(np.full((2, 1), np.nan, np.float32)).tolist() == [-1]
    assert list(weighed({"CLIP": one})) == ["CLIP"]


def test_a_sentence_encoder_is_a_space_of_its_own(studied: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = type("sentence_transformers", (), {"SentenceTransformer": OneHot})
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    asked = PredictionsQuestion(target=COLOURS, sentence_model="one-hot", resamples=0)
    accuracy = predictions(studied, asked).data["accuracy"]
    assert accuracy["space"].unique().tolist() == ["CLIP", "sentence", AVERAGE, PUBLISHED]
    assert weights(studied, WeightsQuestion(target=COLOURS, sentence_model="one-hot", resamples=0)).data["summary"][
        "space"
    ].unique().tolist() == ["CLIP", "sentence"]


def test_images_of_no_class_are_compared_with_what_the_network_says(studied: FinishedRun, write: Write) -> None:
    run, other = studied, write("x.csv", "path,concept", "red/00.jpg,mauve")
    found = predictions(run, PredictionsQuestion(target=COLOURS, image_labels=other, resamples=0))
    assert found.data["accuracy"]["against"].tolist() == [OF_NETWORK]
    assert any("--image-labels" in str(line) for line in found.shown)


def test_classes_without_names_and_runs_of_top_images_are_refused(labelled_bench: Bench, tmp_path: Path) -> None:
    run_of(labelled_bench, tmp_path / "out")
    with pytest.raises(StudyError, match="classes of head have no names: give those with --truth"):
        predictions(FinishedRun.at(str(tmp_path / "out")), PredictionsQuestion(target=COLOURS))
    run_of(labelled_bench, tmp_path / "top", activations="top", truth=str(labelled_bench.concepts))
    with pytest.raises(IncompleteError, match=r"kept the top images alone.*--activations float16"):
        predictions(FinishedRun.at(str(tmp_path / "top")), PredictionsQuestion(target=COLOURS))


@pytest.mark.parametrize("name", ["weights", "predictions"])
def test_the_commands_print_and_write(studied: FinishedRun, name: str) -> None:
    arguments = ["study", name, studied.out.url, "--target", COLOURS, "--bootstrap", "20"]
    done = CliRunner().invoke(cli, arguments, obj={"debug": False})
    assert done.exit_code == 0, done.output
    folder = Path(studied.out.url) / "studies" / name
    assert f"Written: {folder / name}.svg" in done.output.replace("\n", "")
    for table in folder.glob("*.parquet"):
        assert len(pd.read_parquet(table)) == len(pd.read_csv(table.with_suffix(".csv"))) > 0


def test_the_sample_s_head_reads_like_concepts_and_its_neurons_name_classes(sample_run: str) -> None:
    run = FinishedRun.at(sample_run)
    found = weights(run, WeightsQuestion(resamples=50))
    assert found.asked["reads"] == "block5"
    of_all = found.data["summary"].iloc[0]
    assert of_all["weights"] == 20 * 128 and of_all["r"] > of_all["low"] > of_all["by_chance"]
    curve_of = found.data["curve"]["mean_similarity"]
    assert curve_of.iloc[0] > curve_of.iloc[-1]
    accuracy = predictions(run, PredictionsQuestion(resamples=50)).data["accuracy"].set_index("against")
    assert accuracy.loc[OF_IMAGE, "images"] == 400
    assert accuracy.loc[OF_IMAGE, "low"] > 3 * accuracy.loc[OF_IMAGE, "by_chance"]
