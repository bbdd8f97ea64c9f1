"""Labelling by panels of concepts is labelling by the whole matrix, however narrow the panels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tasks.dissection import panels
from tasks.dissection.labels import Labels
from tasks.dissection.panels import Problem, label, panel_width, used_rows
from tasks.dissection.similarity import SIMILARITIES
from tasks.dissection.streaming import CosineMoments, TopImages

NUM_IMAGES, NUM_CONCEPTS, NUM_NEURONS = 80, 300, 9
CASES: list[tuple[str, dict[str, Any]]] = [
    ("soft_wpmi", {"top_k": 20}),
    ("wpmi", {"top_k": 7}),
    ("rank_reorder", {"top_k": 12}),
    ("cos", {}),
    ("cos_cubed", {}),
]


def data(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(NUM_IMAGES, 16, generator=generator), dim=1)
    concepts = F.normalize(torch.randn(NUM_CONCEPTS, 16, generator=generator), dim=1)
    # Few different values, so that ties are everywhere.
    activations = torch.randint(0, 12, (NUM_IMAGES, NUM_NEURONS), generator=generator).float()
    return images, concepts, activations


def problem(name: str, parameters: dict[str, Any]) -> Problem:
    images, concepts, activations = data()
    if name == "cos":
        return Problem(images, concepts, CosineMoments.of(images, activations))
    if "top_k" not in parameters:
        return Problem(images, concepts, activations)
    rows, top = used_rows(TopImages.of(activations, parameters["top_k"]))
    return Problem(images[rows], concepts, top)


@pytest.mark.parametrize("width", [1, 64, 299, 300, 5000])
@pytest.mark.parametrize("variant", ["paper", "reference"])
@pytest.mark.parametrize(("name", "parameters"), CASES, ids=[name for name, _ in CASES])
def test_any_width_labels_as_the_whole(
    name: str, parameters: dict[str, Any], variant: Any, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "panel_width", lambda *_: width)
    images, concepts, activations = data()
    scores = SIMILARITIES[name](images @ concepts.T, activations, variant=variant, **parameters)
    whole = Labels.of(scores, 5)
    found = label(problem(name, parameters), name, 5, 0, variant=variant, **parameters)
    np.testing.assert_allclose(found.similarity, whole.similarity, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.concept_rows[:, 0], whole.concept_rows[:, 0])
    for part in ("log_likelihood", "log_prior"):
        if getattr(whole, part) is not None:
            np.testing.assert_allclose(getattr(found, part)[:, 0], getattr(whole, part)[:, 0], rtol=1e-5, atol=1e-5)


def test_equal_concepts_stay_in_the_order_of_the_list_across_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "panel_width", lambda *_: 64)
    images, concepts, activations = data()
    twice = torch.cat([concepts[:128], concepts[:128]])
    found = label(Problem(images, twice, activations), "cos_cubed", 4, 0)
    assert (found.concept_rows[:, 0] + 128 == found.concept_rows[:, 1]).all()
    assert (found.concept_rows[:, 2] + 128 == found.concept_rows[:, 3]).all()


def test_moments_of_blocks_are_those_of_the_whole() -> None:
    images, concepts, activations = data()
    whole = CosineMoments.of(images, activations).finish(concepts)
    parts = [CosineMoments.of(images[i : i + 13], activations[i : i + 13]) for i in range(0, NUM_IMAGES, 13)]
    merged = parts[0]
    for part in reversed(parts[1:]):
        merged = part.merge(merged)
    torch.testing.assert_close(merged.finish(concepts), whole)
    torch.testing.assert_close(
        whole, F.cosine_similarity((images @ concepts.T)[:, None], activations[:, :, None], dim=0)
    )


def test_the_panel_s_width_follows_the_memory() -> None:
    narrow, wide = (panel_width(10_000, 2_000, memory) for memory in (100_000_000, 400_000_000))
    assert panels.NARROWEST <= narrow < wide
    assert narrow % panels.NARROWEST == wide % panels.NARROWEST == 0
    assert panel_width(10**9, 10**9, 1) == panels.NARROWEST
