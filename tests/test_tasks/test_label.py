"""Labels: a table without gaps, whatever the neurons, concepts and hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.errors import IncompleteError, StorageError
from storage.files import Folder
from tasks.concepts import concept_embeddings_of, embed_concepts
from tasks.dissection.similarity import SIMILARITIES
from tasks.label_tables import DEAD
from tasks.labelling import LABELS, LabelPlan, hyperparameters, plan_labels
from tests.test_tasks.conftest import Bench, activations, label_layer, labelled, observed, shard

COLUMNS = ["layer", "neuron", "rank", "concept", "similarity", "margin", "null_quantile", "log_likelihood"]
COLUMNS += ["log_prior", "is_dead", "is_nearly_constant", "images_ignored"]


@pytest.fixture
def bench(labelled_bench: Bench) -> Bench:
    """Observed and, with the unchanged spec, labelled: what is tested is another labelling, or that one."""
    return labelled_bench


def first(plan: LabelPlan, layer: str) -> dict[int, str]:
    labels = plan.labels(layer)
    top = labels[labels["rank"] == 1]
    return dict(zip(top["neuron"], top["concept"], strict=True))


# Two top images, which rank reorder has here, say nothing.
@pytest.mark.parametrize("similarity", sorted({*SIMILARITIES} - {"rank_reorder"}))
def test_neurons_that_see_a_colour_are_called_by_it(bench: Bench, similarity: str) -> None:
    plan = labelled(bench.spec(similarity=similarity, top_k=5 if "wpmi" in similarity else None))
    assert [first(plan, "conv")[neuron] for neuron in range(3)] == ["red", "green", "blue"]
    assert [first(plan, "head")[neuron] for neuron in range(3)] == ["red", "green", "blue"]


def test_a_table_has_a_row_per_neuron_and_rank_best_first(bench: Bench) -> None:
    labels = labelled(bench.spec(ranks=3)).labels("head")
    assert list(labels.columns) == COLUMNS
    assert labels["neuron"].tolist() == np.repeat(range(4), 3).tolist()
    assert labels["rank"].tolist() == [1, 2, 3] * 4
    for _, of in labels.groupby("neuron"):
        assert of["similarity"].is_monotonic_decreasing
        assert of["concept"].is_unique


def test_similarity_is_likelihood_less_weighed_prior(bench: Bench) -> None:
    labels = labelled(bench.spec(lam=0.7)).labels("head")
    expected = labels["log_likelihood"] - 0.7 * labels["log_prior"]
    assert np.allclose(labels["similarity"], expected.to_numpy(dtype=float), atol=1e-4)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_dead_neuron_has_one_row_and_no_table_has_nan(bench: Bench, similarity: str) -> None:
    plan = labelled(bench.spec(similarity=similarity, top_k=5 if "wpmi" in similarity else None))
    labels = plan.labels("conv")
    dead = labels[labels["is_dead"]]
    assert dead[["neuron", "rank", "concept", "similarity"]].values.tolist() == [[3, 1, DEAD, 0.0]]
    assert np.isfinite(labels["similarity"]).all()
    assert set(labels["neuron"]) == {0, 1, 2, 3}
    table = pq.read_table(plan.store.labels(plan.digest, "conv").path(LABELS))
    for column in ("log_likelihood", "log_prior"):
        assert not any(value != value for value in table[column].to_pylist() if value is not None)
    assert plan.done("conv").facts("done")["num_dead"] == 1


@pytest.mark.parametrize("similarity", ["cos", "cos_cubed", "rank_reorder"])
def test_a_similarity_without_likelihoods_has_nulls(bench: Bench, similarity: str) -> None:
    plan = labelled(bench.spec(similarity=similarity, top_k=None))
    table = pq.read_table(plan.store.labels(plan.digest, "head").path(LABELS))
    assert table["log_likelihood"].null_count == table["log_prior"].null_count == len(table)


def test_a_dead_neuron_does_not_change_the_labels_of_others(bench: Bench) -> None:
    plan = labelled(bench.spec(layers=("conv",)))
    likelihoods = plan.labels("conv").query("not is_dead").set_index(["neuron", "concept"])["log_likelihood"]
    prior = plan.labels("conv").query("not is_dead").groupby("concept")["log_prior"].first()
    by_hand = np.log(np.exp(likelihoods.astype(float)).groupby("concept").mean())
    assert np.allclose(prior.astype(float), by_hand.loc[prior.index], atol=1e-4)


def test_k_is_lowered_to_the_number_of_images(bench: Bench) -> None:
    plan = labelled(bench.spec(top_k=None))
    assert plan.done("head").facts("done")["hyperparameters"]["top_k"] == 48
    assert plan.labels("head").equals(labelled(bench.spec(top_k=48)).labels("head"))


def test_more_ranks_than_concepts_give_every_concept_once(bench: Bench) -> None:
    labels = labelled(bench.spec(ranks=50)).labels("head")
    assert labels.groupby("neuron")["concept"].nunique().tolist() == [4] * 4


def test_equal_concepts_come_in_the_order_of_the_list(bench: Bench) -> None:
    bench.concepts.write_text("red\ncrimson\ngreen\nblue\nscarlet\n")
    np.save(bench.concept_embeddings, np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 0]])
    labels = labelled(bench.spec(ranks=5)).labels("head")
    of_red = labels.loc[labels["neuron"] == 0, "concept"].tolist()
    assert of_red[:3] == ["red", "crimson", "scarlet"]


def test_top_images_are_those_with_the_largest_activations(bench: Bench) -> None:
    spec = bench.spec()
    plan = labelled(spec)
    values = activations(observed(plan.probe, None, spec), "head")
    top = plan.top_images("head")
    assert len(top) == 4 * 48
    for neuron, of in top.groupby("neuron"):
        order = np.argsort(-values[:, int(str(neuron))], kind="stable")
        assert of["row"].tolist() == order.tolist()
        assert np.array_equal(of["activation"], values[order, int(str(neuron))])


def test_top_images_of_equal_activation_come_in_row_order(bench: Bench) -> None:
    top = labelled(bench.spec()).top_images("conv")
    assert top.loc[top["neuron"] == 3, "row"].tolist() == list(range(48))


def test_the_same_spec_gives_the_same_bytes_on_any_sharding(empty_bench: Bench, tmp_path: Path) -> None:
    one = labelled(empty_bench.spec(images_per_shard=5))
    other = labelled(empty_bench.spec(images_per_shard=1000, store=str(tmp_path / "other")))
    for layer in ("conv", "head"):
        for name in ("labels.parquet", "top_images.parquet"):
            assert one.store.labels(one.digest, layer).read(name) == other.store.labels(other.digest, layer).read(
                name
            )


def test_labelled_layers_are_not_labelled_again(empty_bench: Bench) -> None:
    plan = labelled(empty_bench.spec(layers=("head",)))
    assert plan_labels(plan.probe, empty_bench.spec(layers=("head",))).missing == ()
    spec = empty_bench.spec(layers=("head", "conv"))
    observed(plan.probe, spec, spec)
    both = plan_labels(plan.probe, spec)
    assert both.missing == ("conv",)
    assert both.digest == plan.digest


CHANGES: list[dict[str, Any]] = [
    {"top_k": 6},
    {"lam": 0.5},
    {"a": 11.0},
    {"p_end": 0.9},
    {"variant": "reference"},
    {"similarity": "wpmi"},
    {"similarity": "cos", "top_k": None},
    {"ranks": 3},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_labels_again_and_observes_nothing(bench: Bench, change: dict[str, Any]) -> None:
    before = labelled(bench.spec())
    after = plan_labels(before.probe, bench.spec(**change))
    assert after.digest != before.digest
    assert after.missing == ("conv", "head")
    assert (after.activations.digest, after.embeddings.digest) == (
        before.activations.digest,
        before.embeddings.digest,
    )


def test_a_default_that_is_written_out_is_the_same_run(bench: Bench) -> None:
    before = labelled(bench.spec())
    assert plan_labels(before.probe, bench.spec(a=10.0, lam=1.0, p_start=0.998, p_end=0.97)).missing == ()


def test_another_concept_list_of_the_same_embeddings_labels_again(bench: Bench) -> None:
    before = labelled(bench.spec())
    bench.concepts.write_text("rot\ngrün\nblau\ngrau\n")
    after = labelled(bench.spec())
    assert after.digest != before.digest
    assert [first(after, "head")[neuron] for neuron in range(3)] == ["rot", "grün", "blau"]


@pytest.mark.parametrize(
    ("num_images", "top_fraction", "expected"), [(48, None, 2), (10, None, 1), (48, 0.5, 24), (48, 1.0, 48)]
)
def test_a_share_of_top_images_becomes_a_number(
    bench: Bench, num_images: int, top_fraction: float | None, expected: int
) -> None:
    spec = bench.spec(similarity="rank_reorder", top_k=None, top_fraction=top_fraction)
    assert hyperparameters(spec, num_images)["top_k"] == expected


def test_what_is_missing_is_said_with_numbers_and_the_stage_to_run(empty_bench: Bench) -> None:
    spec = empty_bench.spec()
    probe = shard(spec)
    with pytest.raises(IncompleteError, match=r"image embeddings of 1 of 1 shard groups .*clip-dissect embed"):
        plan_labels(probe, spec)
    observed(probe, spec, None)
    with pytest.raises(IncompleteError, match=r"activations of layer conv of 1 of 1 .*clip-dissect record"):
        plan_labels(probe, spec)
    observed(probe, spec, spec)
    with pytest.raises(IncompleteError, match="4 of 4 concepts"):
        label_layer(plan_labels(probe, spec), "head")


@pytest.mark.parametrize(
    ("what", "similarity"), [("summaries", "soft_wpmi"), ("activations", "cos"), ("embeddings", "soft_wpmi")]
)
def test_rows_that_were_lost_after_they_were_marked_never_become_labels(
    bench: Bench, what: str, similarity: str
) -> None:
    spec = bench.spec(layers=("head",), similarity=similarity, top_k=None)
    probe = shard(spec)
    embed_concepts.fn(concept_embeddings_of(spec), spec, 0)
    observed(probe, spec, spec)
    plan = plan_labels(probe, spec)
    url = {
        "summaries": f"{plan.store.summaries(plan.activations.digest)}/head/top_rows",
        "activations": f"{plan.store.activations(plan.activations.digest)}/head",
        "embeddings": f"{plan.store.embeddings(plan.embeddings.digest)}/embeddings",
    }[what]
    (Folder.at(url) / "c").remove()  # zarr gives its fill value for a file that is not there
    with pytest.raises(StorageError, match=r"head|embeddings"):
        label_layer(plan, "head")
    assert plan_labels(probe, spec).missing == ("head",)


def test_labelling_by_100_top_images_reads_no_activations(empty_bench: Bench) -> None:
    spec = empty_bench.spec(layers=("head",))
    probe = shard(spec)
    embed_concepts.fn(concept_embeddings_of(spec), spec, 0)
    observed(probe, spec, spec)
    plan = plan_labels(probe, spec)
    Folder.at(plan.store.activations(plan.activations.digest)).remove()
    label_layer(plan, "head")
    assert [first(plan, "head")[neuron] for neuron in range(3)] == ["red", "green", "blue"]


def test_first_labels_are_plain_rows(bench: Bench) -> None:
    rows = labelled(bench.spec()).first_labels("conv")
    assert [row["concept"] for row in rows] == ["red", "green", "blue", DEAD]
    assert all(row["similarity"] == round(row["similarity"], 3) for row in rows)
    json.dumps(rows)  # None, and no number of NumPy's, where a table has no number
    assert set(rows[0]) == {"neuron", "concept", "similarity", "margin", "null_quantile"}
    spec = bench.spec(null_samples=0)
    assert {row["null_quantile"] for row in labelled(spec).first_labels("conv")[:3]} == {None}


def test_a_repeated_concept_is_one_label_and_the_margin_is_to_another_text(bench: Bench) -> None:
    before = labelled(bench.spec(ranks=3))
    bench.concepts.write_text("red\ngreen\nred\nblue\ngrey\ngreen\n")
    vectors = np.load(bench.concept_embeddings)
    np.save(bench.concept_embeddings, vectors[[0, 1, 0, 2, 3, 1]])
    plan = labelled(bench.spec(ranks=3))
    assert plan.digest != before.digest and plan.num_concepts == 6
    labels = plan.labels("head")
    assert labels.groupby("neuron")["concept"].nunique().tolist() == [3] * 4
    first = labels[labels["rank"] == 1]
    second = labels[labels["rank"] == 2]
    assert first["concept"].tolist()[:3] == ["red", "green", "blue"]
    assert np.allclose(first["margin"].to_numpy(), first["similarity"].to_numpy() - second["similarity"].to_numpy())
    assert (first["margin"] > 0).all()
    everything = labelled(bench.spec(ranks=50)).labels("head")
    assert (
        everything.groupby("neuron")["concept"].agg(list).map(sorted).tolist()
        == [["blue", "green", "grey", "red"]] * 4
    )
    assert everything.loc[everything["rank"] == 4, "margin"].isna().all()
