"""The share of interpretable labels as τ varies, and the τ that raters choose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from flows.__main__ import cli
from storage.files import Folder
from storage.layout import place
from tasks.finished import FinishedRun, StudyError
from tasks.parameters import Tau
from tasks.published import LABELS, RUN
from tasks.rated_items import Item
from tasks.ratings import COLUMNS, Ratings, RatingsError
from tasks.report.scales import SCALES
from tasks.studies.cutoff import CutoffQuestion, curve, cutoff
from tasks.studies.rated_cutoff import cutoffs_of, rated_cutoff


def labels_of(similarity: list[float], quantile: list[float | None], dead: tuple[int, ...] = ()) -> pd.DataFrame:
    """First labels of a layer."""
    count = len(similarity)
    return pd.DataFrame(
        {
            "layer": "x",
            "neuron": range(count),
            "rank": 1,
            "concept": "red",
            "similarity": similarity,
            "null_quantile": pd.array(quantile, dtype="Float64"),
            "is_dead": [neuron in dead for neuron in range(count)],
        }
    )


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["study", *arguments], obj={"debug": False})
    assert done.exit_code == 0, done.output
    return done.output


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_share_above_each_tau_counts_dead_neurons_and_leaves_out_what_is_just_at_it() -> None:
    labels = labels_of([0.2, 0.0, 0.4, 0.4], [0.5, 0.0, 1.0, 1.0], dead=(1,))
    found = curve(labels, "x", np.array([0.1, 0.2, 0.3, 0.4]))
    assert found["share"].tolist() == [0.75, 0.5, 0.5, 0.0]
    # Below the lowest label all null neurons may be above; half of them are above that.
    assert found["null_share"].tolist() == [1.0, 0.5, 0.5, 0.0]
    assert curve(labels.assign(null_quantile=pd.NA), "x", np.array([0.1]))["null_share"].isna().all()


@pytest.mark.parametrize(
    ("tau", "known"),
    [("-99", [1.0, 1.0]), ("0.5", None), ("99", None), ("null:0.9", [0.1, 0.1]), ("null:0.5", [0.5, 0.5])],
)
def test_the_null_at_the_very_tau_that_is_asked_for_is_always_told(
    studied: FinishedRun, tau: str, known: list[float] | None
) -> None:
    found = cutoff(studied, CutoffQuestion(tau=tau, resamples=0))
    layers = found.data["layers"].set_index("layer")["null_share"]
    shares = [layers[name] for name in studied.layers]
    assert np.isfinite(shares).all() and shares == pytest.approx(known or shares)
    # By quantile that is so of all layers; by similarity each has a null of its own.
    assert np.isnan(layers["all"]) == (not tau.startswith("null"))


def test_the_study_says_what_the_run_says_and_its_files_are_the_same_each_time(studied: FinishedRun) -> None:
    out = Path(studied.out.url)
    said = invoke("cutoff", str(out))
    written = files_of(out / "studies" / "cutoff")
    stems = {f"{table}.{kind}" for table in ("layers", "curves") for kind in ("csv", "parquet")}
    assert set(written) == stems | {"cutoff.svg", "cutoff.png", "study.json"}
    layers = pd.read_csv(out / "studies" / "cutoff" / "layers.csv").set_index("layer")
    facts = json.loads((out / RUN).read_text())
    for layer, of in facts["layers"].items():
        assert layers.loc[layer, "share"] == of["interpretable"] / of["neurons"]
        assert f"{layers.loc[layer, 'share']:.1%}" in said
    assert layers.loc["all", "neurons"] == sum(of["neurons"] for of in facts["layers"].values())
    with Image.open(out / "studies" / "cutoff" / "cutoff.png") as figure:
        assert min(figure.size) > 500
    invoke("cutoff", str(out))
    assert files_of(out / "studies" / "cutoff") == written
    assert {place(f"runs/{'0' * 20}/studies/cutoff/{name}") is None for name in written} == {False}


def test_another_folder_and_another_tau_are_taken(studied: FinishedRun, tmp_path: Path) -> None:
    said = invoke("cutoff", studied.out.url, "--tau", "null:0.5", "--out", str(tmp_path / "elsewhere"))
    assert "τ = null:0.5" in said and (tmp_path / "elsewhere" / "cutoff.svg").exists()
    first = studied.first_labels
    shares = pd.read_csv(tmp_path / "elsewhere" / "layers.csv").set_index("layer")["share"]
    above = (first["null_quantile"] > 0.5) & ~first["is_dead"]
    assert shares["all"] == pytest.approx(above.mean())
    assert not (Path(studied.out.url) / "studies").exists()


def test_a_null_cutoff_of_a_run_without_null_is_refused_with_the_way_out(studied: FinishedRun) -> None:
    without = studied.labels.assign(null_quantile=pd.array([None] * len(studied.labels), dtype="Float64"))
    without.to_parquet(Path(studied.out.url) / LABELS)
    run = FinishedRun.at(studied.out.url)
    with pytest.raises(StudyError, match=r"none.*--null-samples 0.*Give a number"):
        cutoff(run, CutoffQuestion(tau="null:0.95"))
    found = cutoff(run, CutoffQuestion(tau="0.1"))  # τ by similarity needs none
    assert found.data["layers"]["share_above_null"].isna().all() and found.data["curves"]["null_share"].isna().all()


def test_a_run_whose_neurons_are_all_dead_is_refused(studied: FinishedRun) -> None:
    studied.labels.assign(is_dead=True).to_parquet(Path(studied.out.url) / LABELS)
    with pytest.raises(StudyError, match=r"All neurons .* are dead"):
        cutoff(FinishedRun.at(studied.out.url), CutoffQuestion())


def test_a_tau_that_is_none_is_told_in_words_alone(studied: FinishedRun) -> None:
    done = CliRunner().invoke(cli, ["study", "cutoff", studied.out.url, "--tau", "null:2"])
    assert done.exit_code == 1 and done.output.startswith("Error: --tau 'null:2' is neither a number")


def test_raters_choose_the_lowest_tau_above_which_their_mean_is_wanted() -> None:
    neurons = pd.DataFrame({"similarity": [0.3, 0.1, 0.2, 0.2], "sum": [2.0, 0.5, 1.0, 2.0], "ratings": [2, 2, 2, 2]})
    found = cutoffs_of(neurons)
    assert found["tau"].tolist()[1:] == [0.1, 0.2] and found["tau"][0] < 0.1
    assert found["above"].tolist() == [4, 3, 1] and found["others"].tolist() == [0, 1, 3]
    assert found["mean_above"].tolist() == pytest.approx([5.5 / 8, 5 / 6, 1.0])
    assert found["mean_others"].tolist() == pytest.approx([np.nan, 0.25, 3.5 / 6], nan_ok=True)


def rated_by(scale: str, scores: list[float], controls: int = 0) -> Ratings:
    """Ratings by one rater, the last ones of controls."""
    rows = [
        {"layer_number": 0, "layer": "x", "neuron": neuron, "concept": "red", "score": score, "rater": "E1"}
        for neuron, score in enumerate(scores)
    ]
    is_control = [neuron >= len(scores) - controls for neuron in range(len(scores))]
    return Ratings(SCALES[scale], pd.DataFrame(rows).assign(is_control=is_control))


def test_three_quarters_of_the_scale_are_wanted_and_controls_choose_nothing() -> None:
    first = labels_of([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8])
    found = rated_cutoff(first, rated_by("yes-maybe-no", [0.0, 0.5, 1.0, 0.0], controls=1), Tau.of("0.16"), None)
    assert (found.wanted, found.chosen) == (0.75, 0.1)
    five = rated_cutoff(first, rated_by("1-5", [1, 2, 3, 3]), Tau.of("0.16"), None)
    assert (five.wanted, five.chosen) == (4.0, None)
    assert rated_cutoff(first, rated_by("1-5", [1, 2, 3, 3]), Tau.of("0.16"), 3.0).chosen == 0.2
    with pytest.raises(StudyError, match="controls alone"):
        rated_cutoff(first, rated_by("1-5", [1, 2], controls=2), Tau.of("0.16"), None)


def rate(run: FinishedRun, file: Path, score: Callable[[int], str], **columns: Any) -> str:
    """What the page saves of one who rates all live neurons of head."""
    digest = run.facts["digest"]
    rows = [
        {
            "rater": "E1",
            "item": Item("head", 1, row.neuron, row.concept, False).sealed(digest, 0, number),
            "concept": row.concept,
            "rating": score(row.neuron),
            "seconds": "1",
            "scale": "yes-maybe-no",
            "run": digest,
            "seed": "0",
        }
        for number, row in enumerate(run.first_labels.query("layer == 'head' and not is_dead").itertuples())
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).assign(**columns).to_csv(file, index=False)
    return str(file)


def test_ratings_of_the_run_are_joined_to_its_similarities(studied: FinishedRun, tmp_path: Path) -> None:
    head = studied.first_labels.query("layer == 'head' and not is_dead").set_index("neuron")["similarity"]
    worst = head.idxmin()
    file = rate(studied, tmp_path / "E1.csv", lambda neuron: "no" if neuron == worst else "yes")
    said = invoke("cutoff", studied.out.url, "--ratings", file, "--wanted", "1")
    neurons = pd.read_csv(Path(studied.out.url) / "studies" / "cutoff" / "rated_neurons.csv").set_index("neuron")
    assert neurons["mean"].to_dict() == {neuron: float(neuron != worst) for neuron in head.index}
    np.testing.assert_allclose(neurons["similarity"], head)
    assert f"{head.min():.4g}, the lowest with 1 above" in said


def test_ratings_of_another_run_are_refused(studied: FinishedRun, tmp_path: Path) -> None:
    file = rate(studied, tmp_path / "E1.csv", lambda _: "yes")
    other = replace(studied, facts=studied.facts | {"digest": "0" * 20})
    Folder.at(studied.out.url).write_json(RUN, other.facts)
    with pytest.raises(RatingsError, match="is of run"):
        cutoff(FinishedRun.at(studied.out.url), CutoffQuestion(ratings=[file]))
