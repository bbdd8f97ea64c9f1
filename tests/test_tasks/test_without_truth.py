"""Labels judged without a truth: by halves of the images, by images that show concepts, by the null."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from storage import arrays
from storage.completion import Rows
from storage.errors import EmbeddingsError, IdentityError, IncompleteError, TableError
from storage.files import Folder
from tasks.concepts import concept_embeddings_of, embed_concepts
from tasks.dissection.errors import ConceptError, UnknownNameError
from tasks.dissection.faithfulness import auc, mad
from tasks.dissection.similarity import SIMILARITIES
from tasks.evaluation import shown
from tasks.evaluation.concept_images import record_spec, shown_by
from tasks.evaluation.contrast import contrasts
from tasks.evaluation.figures import Figure
from tasks.evaluation.halves import labelled as half_labels
from tasks.evaluation.halves import split
from tasks.evaluation.shown_concepts import concept_key, of_probe
from tasks.evaluation.simulation import simulation_correlations
from tasks.evaluation.without_truth import Question, WithoutTruth, evaluate, opened
from tasks.finished import FinishedRun, StudyError
from tasks.labelling import LabelPlan, hyperparameters, plan_labels_of
from tasks.models.errors import ModelError
from tasks.observation import EMBEDDINGS
from tasks.published import read_run
from tasks.sample.shapes import SHAPES
from tasks.spec import DissectSpec
from tests.conftest import draw_images, write_embeddings
from tests.test_tasks.conftest import Bench, TinyClip, Write, observed, recording, shard
from tests.test_tasks.test_evaluation import run_of

NAMES = ["red", "green", "blue", "grey"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, labelled_once: Path) -> Bench:
    """A bench whose unchanged spec is labelled and published in `out` beside its store; no test changes it."""
    folder = tmp_path_factory.mktemp("published") / "bench"
    shutil.copytree(labelled_once, folder)
    files = ("images", "image_embeddings.npy", "concepts.txt", "concept_embeddings.npy")
    bench = Bench(*(folder / name for name in files), str(folder / "store"))
    run_of(bench, folder / "out")
    return bench


def out(bench: Bench) -> str:
    return str(bench.images.parent / "out")


def finished(bench: Bench) -> FinishedRun:
    return FinishedRun.at(out(bench))


def judged(bench: Bench, **asked: Any) -> WithoutTruth:
    question = Question(out(bench), **{"resamples": 50, **asked})
    return evaluate(question, opened(question))


def figures(found: WithoutTruth, layer: str = "head") -> dict[str, Figure]:
    [of_layer] = [one for one in found.layers if one.layer == layer]
    return {figure.name: figure for figure in of_layer.figures}


def stored(plan: LabelPlan, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All embeddings `[I, D]` and activations `[I, N]`."""
    rows = Rows(0, plan.probe.num_images)
    embeddings = arrays.read_rows(plan.embeddings.group(), EMBEDDINGS, rows)
    activations = arrays.read_rows(plan.activations.group(), layer, rows)
    return torch.from_numpy(embeddings), torch.from_numpy(activations)


# Halves


def test_halves_are_drawn_at_random_and_have_every_image_once() -> None:
    one, other = split(41, seed=3)
    assert (len(one), len(other)) == (20, 21)
    assert torch.cat([one, other]).sort().values.tolist() == list(range(41))
    assert one.tolist() == sorted(one.tolist()) != split(41, seed=4)[0].tolist()
    assert one.tolist() == split(41, seed=3)[0].tolist()
    with pytest.raises(TableError, match=r"The run has 19 images.* need 20 at least"):
        split(19, seed=0)


@pytest.mark.parametrize("groups", ["one shard group", "two"])
@pytest.mark.parametrize(
    "changes",
    [
        {"similarity": "soft_wpmi"},
        {"similarity": "wpmi", "variant": "reference"},
        {"similarity": "rank_reorder", "top_k": None, "top_fraction": 0.5},
        {"similarity": "cos", "top_k": None},
        {"similarity": "cos_cubed", "top_k": None},
    ],
    ids=lambda changes: changes["similarity"],
)
def test_a_half_is_labelled_as_if_there_were_no_other_images(
    published: Bench, changes: dict[str, Any], groups: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = finished(published)
    # More concepts than a panel has.
    others = torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
    concepts = torch.cat([torch.nn.functional.normalize(others), torch.from_numpy(run.embed(NAMES))])
    plan = with_concepts(run.plan, published.spec(**changes, memory=1e-9), concepts, tmp_path)
    if groups == "two":
        plan = in_two_groups(plan, published, request)
    half, _ = split(plan.probe.num_images, seed=1)
    found = half_labels(plan, "head", half, seed=0)
    E, A = stored(plan, "head")
    parameters = hyperparameters(plan.spec, len(half))
    method = SIMILARITIES[plan.spec.similarity]
    scores = method(E[half] @ concepts.T, A[half], variant=plan.spec.variant, **parameters).similarity
    torch.testing.assert_close(found.own.similarities, scores, rtol=1e-4, atol=1e-4)
    best = scores.gather(1, torch.from_numpy(found.own.concept_rows))
    torch.testing.assert_close(best, scores.topk(5).values, rtol=1e-4, atol=1e-4)
    assert found.is_live.tolist() == [True] * 4
    # By chance each place of a half has another image, or of the cosines each image another's activations.
    P, of, order = (
        E[half] @ concepts.T,
        A[half],
        torch.randperm(len(half), generator=torch.Generator().manual_seed(0)),
    )
    shuffled = (P, of[order]) if plan.spec.similarity.startswith("cos") else (P[order], of)
    chance = method(*shuffled, variant=plan.spec.variant, **parameters).similarity
    torch.testing.assert_close(found.by_chance.similarities, chance, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(chance, scores, rtol=1e-2)


def with_concepts(plan: LabelPlan, spec: DissectSpec, concepts: torch.Tensor, folder: Path) -> LabelPlan:
    """The same images by another list, and by the other parameters of `spec`."""
    (folder / "many.txt").write_text("".join(f"concept {number}\n" for number in range(len(concepts))))
    np.save(folder / "many.npy", concepts.numpy())
    changes = {"concepts": str(folder / "many.txt"), "concept_embeddings": str(folder / "many.npy")}
    spec = spec.model_copy(update=changes | {"store": str(folder / "concepts")})
    embed_concepts.fn(concept_embeddings_of(spec), spec, 0)
    return plan_labels_of(plan.probe, spec, plan.embeddings, plan.activations, concept_embeddings_of(spec))


def in_two_groups(plan: LabelPlan, bench: Bench, request: pytest.FixtureRequest) -> LabelPlan:
    """The same recorded and embedded in two shard groups."""
    request.getfixturevalue("small_groups")
    spec = bench.spec(store=str(request.getfixturevalue("tmp_path") / "store"))
    probe = shard(spec)
    seen = observed(probe, spec, spec)
    assert seen.embeddings is not None
    return replace(plan, probe=probe, embeddings=seen.embeddings, activations=recording(seen))


def test_neurons_that_are_dead_in_a_half_are_no_part_of_its_prior(published: Bench) -> None:
    run = finished(published)
    half, _ = split(run.plan.probe.num_images, seed=1)
    concepts = torch.from_numpy(run.embed(NAMES))
    found = half_labels(run.plan, "conv", half, seed=0)
    assert found.is_live.tolist() == [True, True, True, False]
    E, A = stored(run.plan, "conv")
    live = torch.tensor([True, True, True, False])
    parameters = hyperparameters(run.plan.spec, len(half))
    scores = SIMILARITIES["soft_wpmi"](E[half] @ concepts.T, A[half], live=live, **parameters).similarity
    torch.testing.assert_close(found.own.similarities[:3], scores[:3], rtol=1e-4, atol=1e-4)


# Simulation


@pytest.mark.usefixtures("published")
def test_a_simulation_correlates_what_clip_says_of_an_image_with_the_activation(
    published: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(published)
    labels = torch.from_numpy(run.embed(["grey", "red", "blue", "red"]))
    without = labels.clone()
    without[1] = torch.nan
    _, half = split(run.plan.probe.num_images, seed=2)
    monkeypatch.setattr("tasks.evaluation.simulation.NEURONS_AT_A_TIME", 3)
    found, partly = simulation_correlations(run.plan, "head", half, [labels, without])
    E, A = stored(run.plan, "head")
    predicted = E[half] @ labels.T
    expected = [np.corrcoef(predicted[:, n], A[half, n])[0, 1] for n in range(4)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isnan(partly).tolist() == [False, True, False, False]
    # The dead neuron of `conv` correlates with nothing.
    [dead] = simulation_correlations(run.plan, "conv", half, [labels])
    assert np.isnan(dead).tolist() == [False, False, False, True]


# Images that show concepts


def test_a_contrast_is_of_images_that_show_the_label_and_those_that_do_not(
    published: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(published)
    plan, everything = run.plan, torch.arange(run.plan.probe.num_images)
    monkeypatch.setattr("tasks.evaluation.contrast.NEURONS_AT_A_TIME", 3)
    labels = ["red", "Blue", None, "mauve"]
    [found] = contrasts(plan, "head", everything, [labels], of_probe(plan, None), seed=0)
    _, A = stored(plan, "head")
    colours = plan.probe.index()["label"].to_numpy()
    for neuron, name in enumerate(["red", "blue"]):
        of = A[:, neuron].double().numpy()
        assert found.auc[neuron] == auc(of[colours == name], of[colours != name])
        assert found.mad[neuron] == pytest.approx(mad(of[colours == name], of[colours != name]))
    assert found.auc[0] == 1.0 and found.auc[1] < 0.5  # neuron 1 is green's
    assert np.isnan(found.auc[2:]).all() and np.isnan(found.mad[2:]).all()


def test_a_contrast_of_some_images_looks_at_no_others(published: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = finished(published).plan
    shown_concepts = of_probe(plan, None)
    colours = plan.probe.index()["label"].to_numpy()
    some = np.sort(np.concatenate([np.flatnonzero(colours == "red")[:6], np.flatnonzero(colours == "grey")[:4]]))
    [found] = contrasts(plan, "head", torch.from_numpy(some), [["red", "grey"] * 2], shown_concepts, seed=0)
    _, A = stored(plan, "head")
    of = A[some, 0].double().numpy()
    assert found.mad[0] == pytest.approx(mad(of[colours[some] == "red"], of[colours[some] == "grey"]))
    assert np.isnan(found.auc[[1, 3]]).all()  # four images are too few
    monkeypatch.setattr("tasks.evaluation.contrast.MOST_SHOWN", 5)
    monkeypatch.setattr("tasks.evaluation.contrast.MOST_CONTROLS", 8)
    [fewer] = contrasts(plan, "head", torch.from_numpy(some), [["red", "grey"] * 2], shown_concepts, seed=0)
    assert fewer.mad[0] != found.mad[0] and math.isfinite(fewer.mad[0])


def test_names_of_folders_and_labels_are_compared_as_words() -> None:
    assert concept_key(" Golden_Retriever ") == concept_key("golden  retriever") != concept_key("retriever")


def test_a_table_says_what_images_show_beside_or_in_place_of_their_folders(published: Bench, write: Write) -> None:
    plan = finished(published).plan
    assert sorted(of_probe(plan, None).rows) == sorted(NAMES)
    table = write(
        "shows.csv", "path,concept", "red/00.jpg,warm", "green/01.png,Cold_one", "red/00.jpg,light", "x,warm"
    )
    found = of_probe(plan, table)
    row_of = {path: row for row, path in plan.probe.index()["path"].items()}
    assert {name: some.tolist() for name, some in found.rows.items()} == {
        "warm": [row_of["red/00.jpg"]],
        "light": [row_of["red/00.jpg"]],
        "cold one": [row_of["green/01.png"]],
    }
    with pytest.raises(TableError, match=r"names no image of the probe set \(its first: 'r\.jpg'.*'blue/00\.jpg'"):
        of_probe(plan, write("none.csv", "path,concept", "r.jpg,red"))
    with pytest.raises(TableError, match="no column path or image or key"):
        of_probe(plan, write("other.csv", "row,concept", "1,red"))


def test_images_of_concepts_are_recorded_with_the_run_s_network(published: Bench, tmp_path: Path) -> None:
    run = finished(published)
    folder = draw_images(tmp_path / "images", 6)
    (folder / "red").rename(folder / "Red_")
    with pytest.raises(ConceptError, match=r"type --target tests\.tiny_models:colours"):
        record_spec(run, ["head"], str(folder), None)
    for flat in (folder / "Red_", tmp_path / "nowhere"):
        with pytest.raises(ConceptError, match=rf"a folder of images for each concept.* {flat} has none"):
            record_spec(run, ["head"], str(flat), "tests.tiny_models:colours")
    spec = record_spec(run, ["head"], str(folder), "tests.tiny_models:colours")
    assert spec.layers == ("head",) and spec.store == run.plan.spec.store
    probe = shard(spec)
    plan = observed(probe, None, spec)
    fresh = shown_by(run, probe, recording(plan))
    [found] = contrasts(run.plan, "head", torch.arange(48), [["red", "green", "blue", "grey"]], fresh, seed=0)
    fresh_A = arrays.read_rows(recording(plan).group(), "head", Rows(0, 24))
    of_red = fresh_A[probe.index()["label"].to_numpy() == "Red_", 0].astype(np.float64)
    _, A = stored(run.plan, "head")
    others = A[run.plan.probe.index()["label"].to_numpy() != "red", 0].double().numpy()
    assert found.mad[0] == pytest.approx(mad(of_red, others))
    assert found.auc[:3].tolist() == [1.0, 1.0, 1.0]
    other = replace(recording(plan), identity={**recording(plan).identity, "weights": "others"})
    with pytest.raises(ModelError, match=r"another network now .*different: weights"):
        shown_by(run, probe, other)


# All figures


def test_right_labels_score_far_above_those_of_other_neurons(published: Bench, write: Write) -> None:
    right = figures(judged(published, layer="head"))
    wrong = figures(
        judged(published, layer="head", labels=write("x.csv", "unit,label", "0,green", "1,blue", "2,grey", "3,red"))
    )
    assert right["held_out_correlation"].value > 0.8 > 0.3 > wrong["given_correlation"].value
    assert right["held_out_auc"].value > 0.9 > 0.5 > wrong["given_auc"].value
    assert right["in_sample_mad"].value > 1 > 0 > wrong["given_mad"].value
    assert right["same_first_label"].value == 1.0
    assert right["label_cosine"].value == pytest.approx(1.0)
    for name in ("held_out_correlation", "in_sample_correlation", "held_out_auc", "in_sample_auc"):
        figure = right[name]
        assert figure.low is not None and figure.high is not None and figure.by_chance is not None
        assert figure.low <= figure.value <= figure.high and figure.by_chance < figure.low
    given = figures(judged(published, layer="head", labels=write("y.csv", "unit,label", *enumerated(NAMES))))
    assert given["given_correlation"].value == right["in_sample_correlation"].value
    assert list(given) == ["given_correlation", "given_auc", "given_mad"]


def test_what_is_held_out_is_the_half_that_labels_are_not_from(published: Bench) -> None:
    found, run = figures(judged(published)), finished(published)
    _, second = split(run.plan.probe.num_images, seed=0)
    labels = torch.from_numpy(run.embed(NAMES))  # what both halves say
    for name, images in (("held_out", second), ("in_sample", torch.arange(run.plan.probe.num_images))):
        [expected] = simulation_correlations(run.plan, "head", images, [labels])
        assert found[f"{name}_correlation"].value == pytest.approx(expected.mean())


def enumerated(names: list[str]) -> Iterator[str]:
    return (f"{unit},{name}" for unit, name in enumerate(names))


def test_every_layer_is_judged_and_dead_neurons_are_left_out(published: Bench, tmp_path: Path) -> None:
    found = judged(published)
    assert [one.layer for one in found.layers] == ["conv", "head"]
    conv = figures(found, "conv")
    assert found.layers[0].num_units == 4
    assert {figure.num_units for figure in conv.values()} == {3}
    table = read_run(Folder.at(out(published)))["layers"]["conv"]
    assert table["dead"] == 1
    shown.write(found, str(tmp_path / "x.csv"))
    written = pd.read_csv(tmp_path / "x.csv")
    assert written.columns.tolist() == ["layer", "figure", "value", "low", "high", "by_chance", "units", "note"]
    assert len(written) == sum(len(one.figures) for one in found.layers)
    shown.write(found, str(tmp_path / "x.json"))
    read = json.loads((tmp_path / "x.json").read_text())
    assert read["layers"]["head"]["figures"]["above_null"]["by_chance"] == pytest.approx(0.05)
    assert judged(published) == found and judged(published, seed=1) != found


def test_the_null_s_share_is_that_of_the_label_table(published: Bench) -> None:
    labels = pd.read_parquet(Path(out(published)) / "labels.parquet")
    first = labels[(labels["layer"] == "head") & (labels["rank"] == 1)]
    assert figures(judged(published))["above_null"].value == (first["null_quantile"] > 0.95).mean()


def test_labels_that_no_image_is_known_to_show_have_no_auc(published: Bench, write: Write) -> None:
    table = write("shows.csv", "path,concept", "red/00.jpg,warm")
    figure = figures(judged(published, image_labels=table))["held_out_auc"]
    assert (figure.value, figure.low, figure.num_units) == (None, None, 0)
    assert figure.note == "no neuron has such a label"


def test_a_table_of_labels_is_of_the_run_s_layers_and_neurons(published: Bench, write: Write) -> None:
    table = write("x.csv", "layer,unit,description", "head,0,red", "other,0,red")
    found = judged(published, labels=table)
    assert [one.layer for one in found.layers] == ["head"]
    assert figures(found)["given_correlation"].num_units == 1
    by_one = judged(published, labels=write("y.csv", "unit,label", "1,red", "4,grey"), first_unit=1, layer="conv")
    assert figures(by_one, "conv")["given_correlation"].num_units == 1  # its neuron 3 is dead
    with pytest.raises(TableError, match=r"has layers other, and none of conv, head"):
        judged(published, labels=write("z.csv", "layer,unit,label", "other,0,red"))
    with pytest.raises(TableError, match=r"has unit 4, and layer head has 4 neurons: units 0 to 3"):
        judged(published, labels=write("w.csv", "unit,label", "4,red"))
    with pytest.raises(UnknownNameError, match="Nearest: head"):
        judged(published, layer="heads")


def test_labels_of_other_words_need_the_model_that_embedded_the_concepts(published: Bench, write: Write) -> None:
    table = write("x.csv", "unit,label", "0,red", "1,crimson")
    with pytest.raises(EmbeddingsError, match=r"1 labels \(first: 'crimson'\) are no concepts of the run.*--clip"):
        judged(published, labels=table)


def test_labels_of_other_words_are_embedded_by_the_run_s_clip(bench: Bench, tiny_clip: TinyClip) -> None:
    from tasks.models.clip import load_clip
    from tests.test_tasks.conftest import on_cpu

    run_of(
        bench,
        bench.images.parent / "out",
        image_embeddings=None,
        concept_embeddings=None,
        prompt="a {}",
        **tiny_clip.options,
    )
    found = finished(bench).embed(["crimson", "red", "crimson"])
    clip = on_cpu(load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint)))
    np.testing.assert_allclose(found, clip.embed_texts(["a crimson", "a red", "a crimson"]), atol=1e-5)
    make_other_weights(tiny_clip)
    with pytest.raises(IdentityError, match=r"another now than the run was made with: 1 labels \(first: 'a mauve'"):
        finished(bench).embed(["mauve"])


def make_other_weights(clip: TinyClip) -> None:
    from tasks.models.clip import load_clip
    from tests.test_tasks.conftest import make_clip

    shutil.copy(make_clip(clip.config.parent / "other", seed=1).checkpoint, clip.checkpoint)
    load_clip.cache_clear()


# What is not there


def test_a_run_of_top_images_alone_has_nothing_to_judge_by(bench: Bench) -> None:
    run_of(bench, bench.images.parent / "out", activations="top")
    with pytest.raises(IncompleteError, match=r"kept the top images alone.*--activations float16"):
        judged(bench)


def test_too_few_images_are_told(empty_bench: Bench, tmp_path: Path) -> None:
    images = draw_images(tmp_path / "few" / "images", 3)
    few = Bench(images, *write_embeddings(images, tmp_path / "few"), str(tmp_path / "few" / "store"))
    run_of(few, tmp_path / "few" / "out")
    with pytest.raises(TableError, match=r"The run has 12 images.* need 20 at least"):
        judged(few)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("store/probes", "made of the probe set .* which is not there"),
        ("store/embeddings", "The image embeddings of the run are not there any more"),
        ("store/activations", "The activations of the run are not there any more"),
        ("concepts.txt", "There is no concept file"),
    ],
)
def test_what_the_run_was_made_of_has_to_be_there(labelled_bench: Bench, gone: str, words: str) -> None:
    run_of(labelled_bench, labelled_bench.images.parent / "out")
    path = labelled_bench.images.parent / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((IncompleteError, ConceptError), match=words):
        judged(labelled_bench)


def test_an_edited_list_of_concepts_is_another(labelled_bench: Bench) -> None:
    run_of(labelled_bench, labelled_bench.images.parent / "out")
    labelled_bench.concepts.write_text("red\ngreen\nblue\n")
    with pytest.raises(StudyError, match=r"the concept list .* has changed since"):
        judged(labelled_bench)


# The embedded sample


def test_the_sample_s_labels_hold_on_images_that_they_are_not_from(sample_run: str, write: Write) -> None:
    question = Question(sample_run, layer="head", resamples=50)
    found = figures(evaluate(question, opened(question)))
    assert found["held_out_correlation"].value > 0.6 > 0.2 > found["held_out_correlation"].by_chance
    assert found["held_out_auc"].value > 0.98 > 0.7 > found["in_sample_auc"].by_chance
    assert found["held_out_mad"].value > 3
    assert found["same_first_label"].value > 0.7 > 0.3 > found["same_first_label"].by_chance
    assert found["above_null"].value > 0.9
    shuffled = [*SHAPES][1:] + [*SHAPES][:1]
    wrong = replace(question, labels=write("x.csv", "unit,label", *enumerated(shuffled)))
    of_others = figures(evaluate(wrong, opened(wrong)))
    assert of_others["given_correlation"].value < 0.1 and of_others["given_auc"].value < 0.6
