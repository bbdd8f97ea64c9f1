"""Scoring by panels of concepts and blocks of images is scoring by the whole matrix, however both are cut."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tasks.dissection import panels, scorers
from tasks.dissection.labels import Labels
from tasks.dissection.panels import label, panel_width
from tasks.dissection.scorers import (
    CosCubedScorer,
    CosScorer,
    PmiScorer,
    RankReorderScorer,
    Scorer,
    by_position,
    in_blocks,
    log_normaliser,
    used_rows,
)
from tasks.dissection.similarity import SIMILARITIES, Variant, cos
from tasks.dissection.streaming import CosineMoments, TopImages
from tests import reference
from tests.test_dissection.strategies import QUICK

NUM_IMAGES, NUM_CONCEPTS, NUM_NEURONS = 80, 130, 9
SOFT = {"top_k": 20, "a": 10.0, "lam": 1.0, "p_start": 0.998, "p_end": 0.97}
CASES: dict[str, dict[str, Any]] = {
    "soft_wpmi": SOFT,
    "wpmi": {"top_k": 7, "a": 2.0, "lam": 0.6},
    "rank_reorder": {"top_k": 12},
    "cos": {},
    "cos_cubed": {"min_norm": 1e-3},
}
functions = pytest.mark.parametrize("name", CASES)
variants = pytest.mark.parametrize("variant", ["paper", "reference"])


def data(seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Image embeddings, concept embeddings, activations of few different values, so that ties are everywhere."""
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(NUM_IMAGES, 16, generator=generator) + 0.3, dim=1)
    concepts = F.normalize(torch.randn(NUM_CONCEPTS, 16, generator=generator) + 0.3, dim=1)
    activations = torch.randint(0, 12, (NUM_IMAGES, NUM_NEURONS), generator=generator).float()
    return images, concepts, activations


def cut(X: Tensor, sizes: Random | None) -> list[Tensor]:
    """Rows in blocks of any sizes."""
    blocks = []
    while len(X):
        size = sizes.randint(1, len(X)) if sizes else len(X)
        blocks, X = [*blocks, X[:size]], X[size:]
    return blocks


def scorer(
    name: str, images: Tensor, concepts: Tensor, activations: Tensor, variant: Variant, sizes: Random | None = None
) -> Scorer:
    """Of neurons without null neurons, the images in blocks of random sizes."""
    parameters, num_neurons = CASES[name], activations.shape[1]
    if name == "cos":
        blocks = zip(cut(images, sizes), cut(activations, None), strict=False)
        if sizes is None:
            return CosScorer(CosineMoments.of(*next(blocks)), num_neurons)
        cuts = [len(block) for block in cut(images, sizes)]
        parts = [CosineMoments.of(E, A) for E, A in zip(images.split(cuts), activations.split(cuts), strict=True)]
        moments = parts[0]
        for part in parts[1:]:
            moments = part.merge(moments)
        return CosScorer(moments, num_neurons)
    if name == "cos_cubed":
        cuts = [len(block) for block in cut(images, sizes)]
        pairs = list(zip(images.split(cuts), activations.split(cuts), strict=True))
        mean = activations.double().mean(0)
        largest = (activations - mean).abs().amax(0)
        return CosCubedScorer(lambda: pairs, images.mean(0), mean, largest, num_neurons, **parameters)
    top = TopImages.of(activations, parameters["top_k"])
    rows = used_rows(top)
    top = by_position(top, rows)
    used = cut(images[rows], sizes)
    if name == "rank_reorder":
        return RankReorderScorer(used, len(rows), top, num_neurons, parameters, variant)
    sums = log_normaliser(used, concepts, parameters["a"])
    return PmiScorer(used, sums, top, num_neurons, 0, parameters, variant, name == "soft_wpmi")


@variants
@functions
@given(
    width=st.sampled_from([1, 64, NUM_CONCEPTS - 1, NUM_CONCEPTS, 5000]), block=st.integers(1, 90), sizes=st.randoms()
)
@QUICK
def test_any_panels_and_any_blocks_label_as_the_whole(
    name: str, variant: Variant, width: int, block: int, sizes: Random
) -> None:
    images, concepts, activations = data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "panel_width", lambda *_: width)
        patch.setattr(scorers, "IMAGES_PER_BLOCK", block)
        patch.setattr(scorers, "CONCEPTS_PER_SUM", width)
        found = label(scorer(name, images, concepts, activations, variant, sizes), concepts, 5, 0).labels
    scores = SIMILARITIES[name](images @ concepts.T, activations, variant=variant, **CASES[name])
    whole = Labels.of(scores, 5)
    np.testing.assert_allclose(found.similarity, whole.similarity, rtol=1e-5, atol=1e-5)
    gap = whole.similarity[:, 0] - whole.similarity[:, 1] > 1e-4
    np.testing.assert_array_equal(found.concept_rows[gap, 0], whole.concept_rows[gap, 0])
    for part in ("log_likelihood", "log_prior"):
        if getattr(whole, part) is not None:
            np.testing.assert_allclose(getattr(found, part)[gap, 0], getattr(whole, part)[gap, 0], 1e-5, 1e-5)


@variants
@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
def test_information_is_the_oracles(name: str, variant: Variant) -> None:
    images, concepts, activations = data()
    oracle = getattr(reference, name)
    P = (images.double() @ concepts.double().T).numpy()
    expected = oracle(P, activations.numpy(), **CASES[name], published=variant == "reference")
    found = scorer(name, images, concepts, activations, variant, Random(1))(concepts).scores
    np.testing.assert_allclose(found.similarity, expected.similarity, rtol=1e-5, atol=2e-5)
    assert found.log_likelihood is not None
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "variant"),
    [*product(["soft_wpmi", "wpmi"], ["paper", "reference"]), ("rank_reorder", "paper")],
)
def test_an_image_that_does_not_count_for_a_neuron_is_as_if_it_had_none(name: str, variant: Variant) -> None:
    images, concepts, activations = data()
    activations[::2, 4] = -torch.inf  # half of the images, and among them top images
    activations[5:, 6] = -torch.inf  # 5 images are left, fewer than any K
    found = scorer(name, images, concepts, activations, variant, Random(2))(concepts).scores
    oracle, parameters = getattr(reference, name), CASES[name]
    for neuron in (4, 6):
        counting = activations[:, neuron] > -torch.inf
        P = (images @ concepts.T).double().numpy()[counting.numpy()]
        alone = activations[counting, neuron : neuron + 1].numpy()
        if name == "rank_reorder":
            expected, given = reference.rank_reorder(P, alone, **parameters), found.similarity
        else:  # the prior is over the others as well
            expected = oracle(P, alone, **parameters, published=variant == "reference").log_likelihood
            given = found.log_likelihood
        assert given is not None
        np.testing.assert_allclose(given[neuron], expected[0], rtol=1e-5, atol=1e-5)
    assert found.similarity.isfinite().all()


@functions
def test_null_neurons_leave_the_others_alone_and_are_scored_as_a_layer(name: str) -> None:
    images, concepts, activations = data()
    own, null = activations[:, :6], activations[:, 6:]
    alone = [scorer(name, images, concepts, part, "paper")(concepts).scores.similarity for part in (own, null)]
    if name in ("cos", "cos_cubed"):
        both = scorer(name, images, concepts, activations, "paper")
        object.__setattr__(both, "num_neurons", 6)
    else:
        k = CASES[name]["top_k"]
        top = TopImages.of(own, k).beside(TopImages.of(null, k))
        rows = used_rows(top)
        top = by_position(top, rows)
        if name == "rank_reorder":
            both = RankReorderScorer([images[rows]], len(rows), top, 6, CASES[name], "paper")
        else:
            sums = log_normaliser([images[rows]], concepts, CASES[name]["a"])
            both = PmiScorer([images[rows]], sums, top, 6, 3, CASES[name], "paper", name == "soft_wpmi")
    scored = both(concepts)
    torch.testing.assert_close(scored.scores.similarity, alone[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scored.null, alone[1], rtol=1e-5, atol=1e-5)


def test_equal_concepts_stay_in_the_order_of_the_list_across_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "panel_width", lambda *_: 64)
    images, concepts, activations = data()
    twice = torch.cat([concepts[:128], concepts[:128]])
    found = label(scorer("cos_cubed", images, twice, activations, "paper"), twice, 4, 0).labels
    assert (found.concept_rows[:, 0] + 128 == found.concept_rows[:, 1]).all()
    assert (found.concept_rows[:, 2] + 128 == found.concept_rows[:, 3]).all()


def test_concepts_are_numbered_from_the_first_and_kept_similarities_are_all_of_them() -> None:
    images, concepts, activations = data()
    of = scorer("cos", images, concepts, activations, "paper")
    found = label(of, concepts[100:], 3, 0, first_concept=100, keep=True)
    assert found.similarities is not None
    torch.testing.assert_close(found.similarities, cos(images @ concepts[100:].T, activations).similarity)
    assert (found.labels.concept_rows[:, 0] - 100 == found.similarities.argmax(1).numpy()).all()


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 12))
@QUICK
def test_blocks_of_another_size_hold_the_same_images(sizes: list[int], size: int) -> None:
    images = torch.arange(sum(sizes) * 2).reshape(-1, 2)
    blocks = list(in_blocks(images.split(sizes), size))
    assert sum(map(len, blocks)) == len(images)
    if blocks:
        assert torch.equal(torch.cat(blocks), images)
        assert max(map(len, blocks)) <= size


def test_the_panels_width_follows_the_memory() -> None:
    narrow, wide = (panel_width(10_000, memory) for memory in (10_000_000, 40_000_000))
    assert panels.NARROWEST <= narrow < wide
    assert narrow % panels.NARROWEST == wide % panels.NARROWEST == 0
    assert panel_width(10**9, 1) == panels.NARROWEST
