"""A run gives the same bytes whatever the number of threads: recordings, labels of every similarity, details."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.detailing import IMAGE_RANGES, NEURONS, SIMILAR
from tasks.dissection import threads
from tasks.dissection.similarity import SIMILARITIES
from tasks.labelling import LABELS
from tasks.sample.draw import draw
from tasks.sample.world import PER_BLOCK, scene
from tasks.spec import DissectSpec
from tests.test_tasks.conftest import activations, detailed, image_embeddings, labelled, observed, shard

NUM_THREADS = (1, 2, 4)
LAYERS = ("block5", "head")
#: Two passes over images of 64 x 64 on a CPU, the second of which has to be filled.
NUM_IMAGES = 100


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    for index in range(NUM_IMAGES):
        Image.fromarray(draw(scene(index * PER_BLOCK // NUM_IMAGES, "probe"))).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def spec_of(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DissectSpec]:
    folder = tmp_path_factory.mktemp("stores")

    def make(num_threads: int, **more: Any) -> DissectSpec:
        names = dict.fromkeys(("target", "clip", "concepts"), "sample")
        given = {"probe": str(probe), "layers": LAYERS, "device": "cpu", "store": str(folder / str(num_threads))}
        return DissectSpec(**names | given | more)

    return make


@pytest.fixture
def by_threads(
    spec_of: Callable[..., DissectSpec], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[Any]]]:
    """What a function finds by a spec, with each number of threads."""
    before = torch.get_num_threads()

    def find(function: Callable[[DissectSpec], Any], **more: Any) -> list[Any]:
        found = []
        for num_threads in NUM_THREADS:
            monkeypatch.setattr(threads, "NUM_THREADS", num_threads)
            torch.set_num_threads(num_threads)
            found.append(function(spec_of(num_threads, **more)))
        return found

    yield find
    torch.set_num_threads(before)


def test_embeddings_and_activations_do_not_depend_on_the_number_of_threads(
    by_threads: Callable[..., list[Any]],
) -> None:
    def find(spec: DissectSpec) -> list[Any]:
        plan = observed(shard(spec), spec, spec)
        return [image_embeddings(plan), *(activations(plan, layer) for layer in LAYERS)]

    found = by_threads(find)
    for others in found[1:]:
        assert all(np.array_equal(mine, other) for mine, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("similarity", sorted(SIMILARITIES))
def test_labels_do_not_depend_on_the_number_of_threads(similarity: str, by_threads: Callable[..., list[Any]]) -> None:
    def find(spec: DissectSpec) -> list[bytes]:
        plan = labelled(spec)
        return [plan.store.labels(plan.digest, layer).read(LABELS) for layer in LAYERS]

    found = by_threads(find, similarity=similarity)
    assert found[0] == found[1] == found[2]


def test_details_do_not_depend_on_the_number_of_threads(by_threads: Callable[..., list[Any]]) -> None:
    def find(spec: DissectSpec) -> list[bytes]:
        details = detailed(labelled(spec).probe, spec)
        assert details is not None
        folders = [details.folder(layer) for layer in LAYERS]
        return [folder.read(name) for folder in folders for name in (NEURONS, IMAGE_RANGES, SIMILAR)]

    found = by_threads(find)
    assert found[0] == found[1] == found[2]
