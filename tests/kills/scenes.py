"""Small runs that touch every kind of file."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import draw_images, write_embeddings
from tests.test_flows.conftest import parameters

#: Few images, neurons and concepts, cut into many shard groups, sums and blocks.
CUT = {
    "storage.completion.ROWS_UNIT": 16,
    "tasks.labelling.NEURONS_UNIT": 2,
    "tasks.labelling.CONCEPTS_UNIT": 2,
    "tasks.labelling.SCORES_PER_BLOCK": 8,
    "tasks.labelling.IMAGES_PER_SUM": 20,
    "tasks.detailing.NEURONS_UNIT": 2,
    "tasks.detailing.ACTIVATIONS_PER_BLOCK": 1,
    "tasks.labelling.NEURONS_PER_BLOCK": {"cos": 2, "cos_cubed": 2, "rank_reorder": 2},
}
SMALL = {"device": "cpu", "batch_size": 8, "null_samples": 10}


@dataclass(frozen=True)
class Scene:
    """A run by its parameters, which are made with the files it reads, below a folder."""

    name: str
    make: Callable[[Path], dict[str, Any]]
    is_cut: bool = True


def _copied(folder: Path) -> dict[str, Any]:
    """Files that are copied, one of them no image; embeddings from a file; all similarities are kept."""
    given = _as_shipped(folder)
    (folder / "images" / "red" / "torn.png").write_bytes(b"\x89PNG")
    return given | SMALL | {"images_per_shard": 10, "keep_similarities": True}


def _in_place(folder: Path) -> dict[str, Any]:
    """A folder and a tar used in place; embeddings by a CLIP model; labels from all activations, in float16."""
    given = _as_shipped(folder)
    with tarfile.open(folder / "more.tar", "w") as tar:
        for path in sorted((folder / "images" / "grey").iterdir()):
            tar.add(path, path.name)
    none = dict.fromkeys(("image_embeddings", "concept_embeddings", "truth", "top_k"))
    return (
        given
        | none
        | SMALL
        | {
            "probe": [str(folder / "images"), str(folder / "more.tar")],
            "clip": "sample",
            "similarity": "rank_reorder",
            "top_fraction": 0.2,
            "activations": "float16",
            "images_per_shard": 20,
        }
    )


def _as_shipped(folder: Path) -> dict[str, Any]:
    images = draw_images(folder / "images")
    return parameters(folder, images, write_embeddings(images, folder))


#: Of small pieces, without Prefect.
SCENES = Scene("copied", _copied), Scene("in place", _in_place)
#: For the command as users run it.
AS_SHIPPED = Scene("as shipped", _as_shipped, is_cut=False)
