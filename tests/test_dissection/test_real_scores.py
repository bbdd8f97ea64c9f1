"""The similarities on real embeddings and a real network: the published numbers, and labels that are right."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.dissection.labels import Labels
from tasks.dissection.metrics import accuracy, right_ranks
from tasks.dissection.similarity import SIMILARITIES, Variant, soft_wpmi
from tests import reference
from tests.test_dissection.conftest import LAYERS, Cifar10

PUBLISHED_AS = {
    "soft_wpmi": "soft_wpmi",
    "wpmi": "wpmi",
    "cos": "cos_similarity",
    "cos_cubed": "cos_similarity_cubed",
}

#: Published scores are float32 sums near -433 whose last digit is 2^-15; epsilons add as much.
TIE = 1e-3


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", PUBLISHED_AS)
def test_reference_variants_give_the_published_scores_and_labels(name: str, layer: str, cifar10: Cifar10) -> None:
    scores = SIMILARITIES[name](cifar10.P, cifar10.activations[layer], variant="reference")
    published = cifar10.published[f"{PUBLISHED_AS[name]}__{layer}"]  # [N, 1372]
    np.testing.assert_allclose(scores.similarity, published, rtol=0.0, atol=TIE)

    first = Labels.of(scores, 1).concept_rows[:, 0]
    behind = published.max(axis=1) - published[np.arange(len(first)), first]
    assert (behind <= TIE).all(), "a first label other than the published one must be a tie"


def test_rank_reorder_of_the_top_5_percent_is_equation_2(cifar10: Cifar10) -> None:
    P, A = cifar10.P[:, :200], cifar10.activations["linear"]
    scores = SIMILARITIES["rank_reorder"](P, A, top_k=25).similarity
    np.testing.assert_allclose(scores, reference.rank_reorder(P.numpy(), A.numpy(), 25), rtol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_the_ten_outputs_are_named_by_their_classes(variant: Variant, cifar10: Cifar10) -> None:
    of_classes = cifar10.P[:, cifar10.rows_of(cifar10.class_concepts)]
    labels = Labels.of(soft_wpmi(of_classes, cifar10.activations["linear"], variant=variant), 1)
    named = [[cifar10.class_concepts[row] for row in rows] for rows in labels.concept_rows]
    ranks = right_ranks(named, [[name] for name in cifar10.class_concepts])
    assert accuracy(ranks).value() == 1.0


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_the_ten_outputs_are_named_from_1372_concepts(variant: Variant, cifar10: Cifar10) -> None:
    labels = Labels.of(soft_wpmi(cifar10.P, cifar10.activations["linear"], variant=variant), 1)
    assert [cifar10.concepts[row] for row in labels.concept_rows[:, 0]] == [
        "jet plane", "car", "bird", "cat", "elk", "puppy", "frog", "headstall", "passenger ship", "trailer truck",
    ]  # fmt: skip
