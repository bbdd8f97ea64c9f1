"""Scales on which people rate how well a label fits: what is asked, what can be answered, what an answer counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers to choose from."""

    rating: str
    """As it stands in the CSV."""
    key: str
    """Key that gives it."""
    name: str
    """On its button."""
    guideline: str
    """When to give it; empty where the name says so."""
    score: float


@dataclass(frozen=True, slots=True)
class Scale:
    """A question, of which `{}` is the description, and its answers, from what counts most to what counts least or
    the other way round, as people are used to."""

    name: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def scores(self) -> dict[str, float]:
        """What each rating counts."""
        return {answer.rating: answer.score for answer in self.answers}


#: The paper's A.10, with its guidelines.
YES_MAYBE_NO = Scale(
    "yes-maybe-no",
    "Does the description {} match this set of images?",
    (
        Answer("yes", "y", "Yes", "Most of the images are well described.", 1.0),
        Answer(
            "maybe",
            "m",
            "Maybe",
            "About half of the images are well described, or most of them relatively well: "
            "right but too general, or slightly off.",
            0.5,
        ),
        Answer("no", "n", "No", "Most of the images are poorly described.", 0.0),
    ),
)
#: The paper's appendix B.
ONE_TO_FIVE = Scale(
    "1-5",
    "The description {} matches this set of images.",
    tuple(
        Answer(str(score), str(score), name, "", float(score))
        for score, name in enumerate(("Strongly disagree", "Disagree", "Neither", "Agree", "Strongly agree"), start=1)
    ),
)
SCALES = {scale.name: scale for scale in (YES_MAYBE_NO, ONE_TO_FIVE)}
