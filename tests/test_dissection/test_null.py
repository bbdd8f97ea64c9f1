"""The permutation null: shuffled neurons are a layer's own in all but their images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.dissection.null import NULL_IMAGES, Null, null_quantile
from tasks.dissection.similarity import soft_wpmi
from tasks.dissection.streaming import TopImages

NUM_IMAGES = 300


def activations(num_neurons: int) -> Tensor:
    return torch.rand(NUM_IMAGES, num_neurons, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("live", "samples", "size", "total"), [(50, 20, 20, 20), (50, 50, 50, 50), (7, 20, 7, 21)])
def test_small_layers_are_shuffled_several_times_and_large_ones_in_part(
    live: int, samples: int, size: int, total: int
) -> None:
    is_live = torch.arange(60) < live
    null = Null.of(is_live, samples, seed=0)
    assert (null.layer_size, len(null)) == (size, total)
    assert is_live[null.neurons].all()
    for layer in null.neurons.split(size):
        assert len(layer.unique()) == size  # nobody twice in a layer


@pytest.mark.parametrize(("live", "samples"), [(0, 20), (5, 0)])
def test_without_live_neurons_or_samples_there_is_no_null(live: int, samples: int) -> None:
    null = Null.of(torch.arange(5) < live, samples, seed=0)
    top = null.top_images(TopImages.of(activations(5), 10), NUM_IMAGES)
    assert len(null) == top.num_neurons == 0
    assert null_quantile(torch.zeros(5, 2), torch.empty(0)).isnan().all()
    ((_, beside),) = null.beside([(torch.ones(NUM_IMAGES, 2), activations(5))])
    assert beside.shape == (NUM_IMAGES, 5)


def test_a_null_neuron_keeps_its_activations_and_gets_different_images() -> None:
    top = TopImages.of(activations(40), 30)
    null = Null.of(torch.ones(40, dtype=torch.bool), 40, seed=3)
    shuffled = null.top_images(top, NUM_IMAGES)
    assert torch.equal(shuffled.values, top.values[:, null.neurons])
    for rows in shuffled.rows.T:
        assert len(rows.unique()) == 30
    # Every image is as likely as any: 40 x 30 draws of 300 leave none out.
    assert len(shuffled.rows.unique()) > 0.95 * NUM_IMAGES
    overlap = [
        len(set(a.tolist()) & set(b.tolist()))
        for a, b in zip(top.rows[:, null.neurons].T, shuffled.rows.T, strict=True)
    ]
    assert sum(overlap) / len(overlap) == pytest.approx(30 * 30 / NUM_IMAGES, abs=1.5)


def test_null_neurons_of_a_large_probe_set_look_at_a_sample_of_it() -> None:
    top = TopImages(torch.ones(100, 500), torch.zeros(100, 500, dtype=torch.int64))
    rows = Null.of(torch.ones(500, dtype=torch.bool), 500, seed=0).top_images(top, 1_000_000).rows
    assert len(rows.unique()) <= NULL_IMAGES
    assert rows.max() > 900_000


def test_the_seed_decides() -> None:
    top, live = TopImages.of(activations(40), 30), torch.ones(40, dtype=torch.bool)
    one, same, other = (Null.of(live, 20, seed).top_images(top, NUM_IMAGES).rows for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_beside_activations_each_null_column_is_a_column_in_another_order() -> None:
    A, E = activations(6), torch.rand(NUM_IMAGES, 4)
    null = Null.of(torch.ones(6, dtype=torch.bool), 12, seed=0)
    ((embeddings, both),) = null.beside([(E, A)])
    assert torch.equal(embeddings, E)
    assert torch.equal(both[:, :6], A)
    for column, neuron in zip(both[:, 6:].T, null.neurons, strict=True):
        assert torch.equal(column.sort().values, A[:, neuron].sort().values)
        assert not torch.equal(column, A[:, neuron])


def test_the_quantile_is_the_share_of_null_neurons_below() -> None:
    null_best = torch.tensor([0.3, 0.1, 0.2, 0.4])
    found = null_quantile(torch.tensor([[0.05, 0.1], [0.25, 1.0], [-math.inf, 0.4]]), null_best)
    assert found.tolist() == [[0.0, 0.0], [0.5, 1.0], [0.0, 0.75]]


def test_of_a_layer_that_knows_nothing_labels_are_no_better_than_the_null() -> None:
    """Random activations: null quantiles are spread evenly; activations that follow a concept reach the top."""
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(NUM_IMAGES, 16, generator=generator), dim=1)
    concepts = F.normalize(torch.randn(50, 16, generator=generator), dim=1)
    P = images @ concepts.T
    random = torch.rand(NUM_IMAGES, 200, generator=generator)
    following = P[:, :20]
    quantiles = []
    for A in (random, following):
        top = TopImages.of(A, 30)
        null = Null.of(torch.ones(A.shape[1], dtype=torch.bool), 200, seed=5)
        shuffled = null.top_images(top, NUM_IMAGES)
        best = [
            soft_wpmi(P, TopImages(shuffled.values[:, layer], shuffled.rows[:, layer]), top_k=30).similarity.amax(1)
            for layer in torch.arange(len(null)).split(null.layer_size)
        ]
        quantiles.append(null_quantile(soft_wpmi(P, top, top_k=30).similarity.amax(1), torch.cat(best)))
    assert quantiles[0].mean() == pytest.approx(0.5, abs=0.1)
    assert (quantiles[0] > 0.95).double().mean() < 0.12
    assert (quantiles[1] > 0.99).all()
