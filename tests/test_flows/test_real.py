"""Published networks, photographs and CLIP embeddings; what a right pipeline gives stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.conftest import REAL, needs_real

pytestmark = needs_real

Run = Callable[..., dict[str, int]]
EMBEDDED = {"concepts": str(REAL / "concepts.txt"), "concept_embeddings": str(REAL / "concept_embeddings.npy")}


def cifar(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "target": "tests.real_models:cifar_resnet20",
        "checkpoint": str(REAL / "cifar10" / "resnet20.safetensors"),
        "layers": ("layer1", "layer2", "layer3", "linear"),
        "probe": str(REAL / "cifar10" / "images"),
        "image_embeddings": str(REAL / "cifar10" / "image_embeddings.npy"),
        "store": str(tmp_path / "store"),
        "out": str(tmp_path / "out"),
        **EMBEDDED,
        **more,
    }


def first_labels(out: Path, layer: str) -> list[str]:
    labels = pd.read_parquet(out / "labels.parquet")
    return labels.loc[(labels["layer"] == layer) & (labels["rank"] == 1), "concept"].tolist()


def test_cifar_classes_among_1372_names(run: Run, tmp_path: Path) -> None:
    run(**cifar(tmp_path))
    expected = "jet plane, car, bird, cat, elk, puppy, frog, headstall, passenger ship, trailer truck"
    assert first_labels(tmp_path / "out", "linear") == expected.split(", ")


def test_cifar_classes_among_the_ten_names(run: Run, tmp_path: Path) -> None:
    names = (REAL / "concepts.txt").read_text().splitlines()
    classes = (REAL / "cifar10" / "class_concepts.txt").read_text().splitlines()
    rows = np.load(REAL / "concept_embeddings.npy")[[names.index(name) for name in classes]]
    np.save(tmp_path / "ten.npy", rows)
    ten = {"concepts": str(REAL / "cifar10" / "class_concepts.txt"), "concept_embeddings": str(tmp_path / "ten.npy")}
    run(**cifar(tmp_path, layers=("linear",), **ten))
    assert first_labels(tmp_path / "out", "linear") == classes


def test_reference_variants_through_the_pipeline_give_the_published_scores(run: Run, tmp_path: Path) -> None:
    published = np.load(REAL / "cifar10" / "reference_scores.npz")
    for similarity, name in (("soft_wpmi", "soft_wpmi"), ("cos_cubed", "cos_similarity_cubed")):
        run(**cifar(tmp_path, layers=("layer3", "linear"), similarity=similarity, variant="reference", ranks=1372))
        labels = pd.read_parquet(tmp_path / "out" / "labels.parquet")
        for layer in ("layer3", "linear"):
            best = np.sort(published[f"{name}__{layer}"], axis=1)[:, ::-1]
            ours = labels.loc[labels["layer"] == layer, "similarity"].to_numpy().reshape(best.shape)
            np.testing.assert_allclose(ours, best, atol=2e-3)


def test_squeezenet_on_photographs(run: Run, tmp_path: Path) -> None:
    photos = REAL / "photos"
    done = run(
        target="torchvision:squeezenet1_0",
        checkpoint=str(REAL / "squeezenet1_0.safetensors"),
        layers=("features.3", "classifier[1]"),
        probe=str(photos / "images"),
        image_embeddings=str(photos / "image_embeddings.npy"),
        store=str(tmp_path / "store"),
        out=str(tmp_path / "out"),
        **EMBEDDED,
    )
    assert done["embed and record"] == 300
    labels = first_labels(tmp_path / "out", "classifier.1")
    assert len(labels) == 1000
    # ImageNet classes whose like is in the photographs; labels are near rather than exact.
    near = {"golden retriever 207": {"dog", "puppy", "shepherd dog", "labrador"}, "snowmobile 802": {"snowmobile"}}
    for what, words in near.items():
        assert any(word in labels[int(what.split()[-1])] for word in words), labels[int(what.split()[-1])]
