"""A page on which people rate labels, as one HTML file that opens from disk, keeps ratings and saves them as CSV."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.report.page import filled
from tasks.report.scales import Scale


@dataclass(frozen=True, slots=True)
class Question:
    """A description and images, of which people say whether they fit."""

    item: str
    """Stands in the CSV as it is; the page knows nothing of what it means."""
    concept: str
    images: tuple[int, ...]
    """Numbers of images, the one that activates the neuron most first."""


@dataclass(frozen=True, slots=True)
class Questions:
    """All questions of a page, in the order in which they are asked."""

    title: str
    run: str
    """Digest of the run."""
    seed: int
    """What they were drawn by."""
    key: str
    """Under which a browser keeps ratings: another for other questions."""
    scale: Scale
    questions: tuple[Question, ...]


def render_questions(asked: Questions, thumbnails: Mapping[int, bytes]) -> str:
    """The whole page; `thumbnails` holds a JPEG per image number. No file name is on it: many name a class."""
    return filled(
        "rate.html",
        ("rate-store.js", "rate.js"),
        ("base.css", "rate.css"),
        title=asked.title,
        asked=asked,
        num_images=max((len(question.images) for question in asked.questions), default=0),
        payload=_payload(asked, thumbnails),
    )


def _payload(asked: Questions, thumbnails: Mapping[int, bytes]) -> dict[str, Any]:
    shown = sorted({image for question in asked.questions for image in question.images})
    numbers = {image: number for number, image in enumerate(shown)}
    return {
        "run": asked.run,
        "seed": asked.seed,
        "key": asked.key,
        "scale": asked.scale.name,
        "answers": {answer.rating: answer.key for answer in asked.scale.answers},
        "questions": [
            [question.item, question.concept, [numbers[image] for image in question.images]]
            for question in asked.questions
        ],
        "thumbnails": [base64.b64encode(thumbnails[image]).decode("ascii") for image in shown],
    }
