"""The page on which people rate the labels of a published run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from storage.errors import IncompleteError
from storage.files import Folder
from storage.whereabouts import probe_of
from tasks.page import thumbnails
from tasks.published import LABELS, TOP_IMAGES, read_run, read_table
from tasks.rated_items import Item, drawn
from tasks.report.rate_page import Question, Questions, render_questions
from tasks.report.scales import SCALES

RATE = "rate.html"
#: Images of a question, as in A.10.
IMAGES_SHOWN = 10
#: Pixels: larger than in the report, for they are looked at one by one.
THUMBNAIL_SIDE = 160


@dataclass(frozen=True)
class Sampling:
    """Which neurons are rated, and how."""

    scale: str
    #: Of each layer.
    num_neurons: int
    num_controls: int
    seed: int


def write_rate_page(out: str, sampling: Sampling, store: str | None = None) -> Iterator[str]:
    """Writes `rate.html` into the folder of a published run, and says what is on it.

    `store` is the store of the run, if that was moved. Raises `IncompleteError` where the folder holds no finished
    run, its store is not found, or all its neurons are dead.
    """
    folder = Folder.at(out)
    run = read_run(folder)
    labels, top_images = (read_table(folder, name) for name in (LABELS, TOP_IMAGES))
    items = drawn(labels, list(run["layers"]), sampling.num_neurons, sampling.num_controls, sampling.seed)
    if not items:
        raise IncompleteError(f"All neurons of the run in {folder.url} are dead: there is nothing to rate.")
    top_images = top_images[top_images["rank"] <= IMAGES_SHOWN]
    asked = _questions(run, items, top_images, sampling)
    rows = {row for question in asked.questions for row in question.images}
    page = render_questions(asked, dict(thumbnails(probe_of(folder, run, store), rows, THUMBNAIL_SIDE)))
    folder.write(RATE, page.encode())
    num_controls = sum(item.is_control for item in items)
    yield f"{len(items) - num_controls:,} neurons and {num_controls:,} controls to rate: {folder.path(RATE)}"
    num_images = int(max(top_images["rank"], default=0))
    if num_images < min(IMAGES_SHOWN, run["counts"]["images"]):
        yield (
            f"Note: {num_images} images are shown of a neuron, as many as the run published (--top-images); "
            f"the paper shows {IMAGES_SHOWN}."
        )


def _questions(run: dict[str, Any], items: Sequence[Item], top_images: pd.DataFrame, sampling: Sampling) -> Questions:
    digest, seed = str(run["digest"]), sampling.seed
    rows = {
        of: tuple(table["row"].tolist())
        for of, table in top_images.sort_values("rank").groupby(["layer", "neuron"], sort=False)
    }
    drawing = f"{sampling.num_neurons} {sampling.num_controls} {seed}"
    return Questions(
        title=f"Do the labels of {run['spec']['target']} fit?",
        run=digest,
        seed=seed,
        key=f"clip-dissect {digest} {sampling.scale} {drawing}",
        scale=SCALES[sampling.scale],
        questions=tuple(
            Question(item.sealed(digest, seed, number), item.concept, rows.get((item.layer, item.neuron), ()))
            for number, item in enumerate(items)
        ),
    )
