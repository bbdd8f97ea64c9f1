"""Labelling goes block by block: what is done is not done again, and no table depends on how it was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from storage.bundles import bundles
from storage.errors import DamagedError, EmbeddingsError
from tasks import label, labelling
from tasks.concepts import concept_embeddings_of, embed_concepts
from tasks.dissection.similarity import SIMILARITIES
from tasks.dissection.streaming import Statistics, TopImages
from tasks.label import find_top_images, join_labels, score_block, sum_softmax
from tasks.label_tables import neurons_table
from tasks.labelling import LabelPlan, blocks, notes, plan_labels, ranges
from tests.test_dissection.strategies import QUICK
from tests.test_tasks.conftest import Bench, label_layer, labelled, observed, shard

functions = pytest.mark.parametrize("similarity", SIMILARITIES)


@pytest.fixture
def bench(labelled_bench: Bench) -> Bench:
    """Observed already: what is tested comes after."""
    return labelled_bench


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two neurons or two concepts, and softmax sums of 20 images."""
    monkeypatch.setattr(labelling, "NEURONS_UNIT", 2)
    monkeypatch.setattr(labelling, "CONCEPTS_UNIT", 2)
    monkeypatch.setattr(labelling, "SCORES_PER_BLOCK", 8)
    monkeypatch.setattr(labelling, "NEURONS_PER_BLOCK", dict.fromkeys(labelling.NEURONS_PER_BLOCK, 2))
    monkeypatch.setattr(labelling, "IMAGES_PER_SUM", 20)


def planned(bench: Bench, **changes: Any) -> LabelPlan:
    spec = bench.spec(layers=("head",), **changes)
    probe = shard(spec)
    embed_concepts.fn(concept_embeddings_of(spec), spec, 0)
    observed(probe, spec, spec)
    return plan_labels(probe, spec)


def settings(similarity: str) -> dict[str, Any]:
    return {"similarity": similarity, "top_k": 5 if "wpmi" in similarity else None, "null_samples": 40}


@given(st.sampled_from(sorted(SIMILARITIES)), st.integers(1, 300_000), st.integers(1, 200_000))
@QUICK
def test_blocks_are_few_and_cover_each_pair_once(similarity: str, num_neurons: int, num_concepts: int) -> None:
    found = blocks(similarity, num_neurons, num_concepts)
    assert 1 <= len(found) <= labelling.MAX_BLOCKS
    assert sum(map(len, found)) == num_neurons * num_concepts
    assert len({block.name for block in found}) == len(found)
    for block in found:
        assert block.neurons.start % labelling.NEURONS_UNIT == block.concepts.start % labelling.CONCEPTS_UNIT == 0


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 64))
@QUICK
def test_ranges_follow_each_other(total: int, step: int, unit: int) -> None:
    found = ranges(total, step, unit)
    assert [part.start for part in found] == [0, *(part.stop for part in found[:-1])]
    assert found[-1].stop == total
    assert all(part.start % unit == 0 for part in found)


@functions
def test_no_label_depends_on_the_blocks(
    bench: Bench, similarity: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole = labelled(bench.spec(**settings(similarity))).labels("head")
    request.getfixturevalue("cut")
    plan = planned(bench, store=str(tmp_path / "other"), **settings(similarity))
    assert len(plan.blocks("head")) == 2
    label_layer(plan, "head")
    found = plan.labels("head")
    # Blocks of neurons have null neurons of their own.
    same = [column for column in found if similarity in labelling.WITH_PRIOR or column != "null_quantile"]
    pd.testing.assert_frame_equal(found[same], whole[same], rtol=1e-5, atol=1e-6)
    assert found["null_quantile"].between(0, 1).all()


@pytest.mark.usefixtures("cut")
def test_a_killed_reduction_goes_on_at_the_block(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(bench, **settings("soft_wpmi"))
    find_top_images.fn(plan, "head")
    parts = plan.unsummed("head")
    assert len(parts) == 3
    sum_softmax.fn(plan, "head", parts[0])
    assert plan_labels(plan.probe, plan.spec).unfound == []
    assert plan.unsummed("head") == parts[1:]
    for part in parts[1:]:
        sum_softmax.fn(plan, "head", part)
    first, second = plan.unscored("head")
    score_block.fn(plan, "head", first)
    assert plan.unscored("head") == [second]

    calls = []
    score = label.label

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["first_concept"])
        return score(*args, **kwargs)

    monkeypatch.setattr(label, "label", counted)
    label_layer(plan, "head")
    assert calls == [second.concepts.start]
    # What blocks held is in the table, and nothing else is left.
    assert set(plan.folder("head").names()) == {
        "found.json", "done.json", "labels.parquet", "top_images.parquet", "neurons.parquet", "used.bundle",
    }  # fmt: skip


@pytest.mark.usefixtures("cut")
def test_what_a_run_killed_after_its_labels_left_is_removed_by_the_next(bench: Bench) -> None:
    plan = planned(bench, **settings("soft_wpmi"))
    label_layer(plan, "head")
    names = plan.folder("head").names()
    for folder in (plan.softmax_folder("head"), plan.blocks_folder("head")):
        folder.write("000000000000-000000000002.bundle", b"one")
    assert plan_labels(plan.probe, plan.spec).missing == ()
    assert plan.folder("head").names() == names


@pytest.mark.usefixtures("cut")
def test_a_torn_block_is_named_and_no_label_comes_of_it(bench: Bench) -> None:
    plan = planned(bench, **settings("soft_wpmi"))
    find_top_images.fn(plan, "head")
    for part in plan.unsummed("head"):
        sum_softmax.fn(plan, "head", part)
    for block in plan.unscored("head"):
        score_block.fn(plan, "head", block)
    name = f"{plan.blocks('head')[1].name}.bundle"
    folder = plan.blocks_folder("head")
    folder.write(name, folder.read(name)[:-40])
    with pytest.raises(DamagedError, match="Remove it and run again"):
        join_labels.fn(plan, "head")
    folder.remove_file(name)
    label_layer(plan, "head")
    assert not bundles(folder)


@pytest.mark.usefixtures("cut")
@functions
def test_kept_similarities_are_those_of_the_table(bench: Bench, similarity: str) -> None:
    plan = planned(bench, keep_similarities=True, **settings(similarity))
    label_layer(plan, "head")
    group = zarr.open_group(plan.store.similarities(plan.digest), mode="r")
    kept = group["head"]
    assert isinstance(kept, zarr.Array)
    assert kept.shape == (4, plan.num_concepts)
    assert kept.metadata.dimension_names == ("neuron of head", "concept")  # type: ignore[union-attr]
    concepts = pd.read_parquet(plan.store.kept.path(f"{plan.digest}.parquet"))["concept"].tolist()
    values = np.asarray(kept[:])
    for row in plan.labels("head").itertuples():
        assert values[int(row.neuron), concepts.index(row.concept)] == pytest.approx(row.similarity)  # type: ignore[arg-type]


def test_similarities_are_kept_only_where_asked_for(bench: Bench) -> None:
    plan = labelled(bench.spec())
    assert not plan.store.kept.exists()
    assert plan_labels(plan.probe, bench.spec(keep_similarities=True)).missing == ("conv", "head")


def test_margins_are_differences_of_similarities(bench: Bench) -> None:
    labels = labelled(bench.spec(ranks=3)).labels("head")
    for _, of in labels.groupby("neuron"):
        similarity, margin = of["similarity"].to_numpy(), of["margin"].to_numpy(dtype=float)
        assert margin[:2] == pytest.approx(similarity[:2] - similarity[1:])
        assert margin[2] >= 0  # to the fourth, which is not in the table
    last = labelled(bench.spec(ranks=4)).labels("head").groupby("neuron").tail(1)["margin"]
    assert last.isna().all()  # there are four concepts


def test_neurons_that_follow_a_colour_are_above_the_null(bench: Bench) -> None:
    labels = labelled(bench.spec(null_samples=200)).labels("head")
    first = labels[labels["rank"] == 1]
    assert (first["null_quantile"] > 0.95).all()
    without = labelled(bench.spec(null_samples=0)).labels("head")
    assert without["null_quantile"].isna().all()
    pd.testing.assert_series_equal(without["similarity"], labels["similarity"])


def test_a_neuron_that_stands_out_on_fewer_images_than_it_has_top_images_is_nearly_constant() -> None:
    seen = torch.rand(40)
    few, noise = torch.zeros(40), 1 + 1.2e-7 * (seen > 0.5)
    few[[3, 17, 21]] = 1.0
    activations = torch.stack([seen, few, noise, torch.ones(40)], dim=1)
    table = neurons_table(Statistics.of(activations), TopImages.of(activations, 5), 40)
    assert table["is_nearly_constant"].tolist() == [False, True, True, False]
    assert table["is_dead"].tolist() == [False, False, False, True]
    enough = neurons_table(Statistics.of(activations), TopImages.of(activations, 3), 40)
    assert enough["is_nearly_constant"].tolist() == [False, False, True, False]


def test_a_neuron_may_use_every_image() -> None:
    activations = torch.arange(12.0).reshape(6, 2)
    table = neurons_table(Statistics.of(activations), TopImages.of(activations, 100), 6)
    assert not table["is_nearly_constant"].any()


def test_activations_that_are_not_finite_are_counted(bench: Bench) -> None:
    plan = labelled(bench.spec(target="tests.tiny_models:nans", layers=("body",), top_k=5))
    neurons = plan.neurons("body")
    assert neurons["images_ignored"].iloc[0] > 0
    assert plan.done("body").facts("done")["num_activations_ignored"] == neurons["images_ignored"].sum()
    assert np.isfinite(plan.labels("body")["similarity"]).all()


def test_a_layer_of_one_neuron_and_a_list_of_one_concept_are_told(bench: Bench) -> None:
    alone = labelled(bench.spec(target="tests.tiny_models:one_neuron", layers=("head",)))
    assert (alone.labels("head")["similarity"].abs() < 1e-4).all()
    assert "head has one neuron" in notes(alone)[0]
    assert not notes(labelled(bench.spec(target="tests.tiny_models:one_neuron", layers=("head",), lam=0.5)))
    bench.concepts.write_text("red\n")
    np.save(bench.concept_embeddings, np.load(bench.concept_embeddings)[:1])
    single = labelled(bench.spec(layers=("head",)))
    assert "The list has one concept" in notes(single)[0]
    assert (single.labels("head")["similarity"].abs() < 1e-6).all()
    assert single.labels("head")["margin"].isna().all()


def test_reference_rank_reorder_says_what_a_negative_mean_does(bench: Bench) -> None:
    np.save(bench.concept_embeddings, -np.load(bench.concept_embeddings))
    spec = bench.spec(similarity="rank_reorder", variant="reference", top_k=None, top_fraction=0.5)
    with pytest.raises(EmbeddingsError, match=r"negative with each of the 4 concepts.*--variant paper"):
        labelled(spec)
    assert labelled(bench.spec(similarity="rank_reorder", top_k=None)).labels("head")["similarity"].notna().all()
