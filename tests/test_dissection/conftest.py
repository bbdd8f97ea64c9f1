"""Real networks' activations, images and CLIP embeddings (see the README beside them)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.conftest import single_threaded

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "real"

LAYERS = ("layer1", "layer2", "layer3", "linear")


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with single_threaded():
        yield


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data; the test skips where it is absent."""
    if not REAL.is_dir():
        pytest.skip("no ../shared/real beside the repository: real networks, images and embeddings are not at hand")
    return REAL


@pytest.fixture(scope="module", autouse=True)
def _same_random_weights() -> None:
    torch.manual_seed(0)


@dataclass(frozen=True)
class Cifar10:
    """500 CIFAR-10 images as CLIP ViT-B/32 and a ResNet-20 see them."""

    #: Concepts `[1372]`, class names of LVIS and Objects365.
    concepts: list[str]
    #: The ten classes in words of `concepts`, in class order.
    class_concepts: list[str]
    #: CLIP similarity of image and concept `[500, 1372]`.
    P: Tensor
    #: By layer, activations `[500, N]`.
    activations: dict[str, Tensor]
    #: What the published functions give, `FUNCTION__LAYER` `[N, 1372]`.
    published: dict[str, npt.NDArray[np.float32]]

    def rows_of(self, concepts: list[str]) -> list[int]:
        return [self.concepts.index(concept) for concept in concepts]


@pytest.fixture(scope="session")
def cifar10(real: Path) -> Cifar10:
    with np.load(real / "cifar10" / "reference_scores.npz") as arrays:
        published = {name: arrays[name] for name in arrays.files}
    images = _unit_rows(real / "cifar10" / "image_embeddings.npy")  # [500, 512]
    concepts = _unit_rows(real / "concept_embeddings.npy")  # [1372, 512]
    return Cifar10(
        concepts=_lines(real / "concepts.txt"),
        class_concepts=_lines(real / "cifar10" / "class_concepts.txt"),
        P=images @ concepts.T,
        activations={layer: torch.from_numpy(published.pop(f"activations__{layer}")) for layer in LAYERS},
        published=published,
    )


def _unit_rows(path: Path) -> Tensor:
    rows = torch.from_numpy(np.load(path).astype(np.float32))
    return rows / rows.norm(dim=1, keepdim=True)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
