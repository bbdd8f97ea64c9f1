"""Concept lists: what a neuron may be called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.dissection.errors import ConceptError

#: Most frequent English words, by how many.
COMMON = {"common-3k": 3_000, "common-10k": 10_000, "common-20k": 20_000}


@dataclass(frozen=True)
class ConceptList:
    """Concepts in the order of their rows.

    `num_blank` lines of the file held nothing and are no concepts, neither when embedding nor when naming.
    `unused` are the columns of a table that hold no concepts.
    """

    concepts: tuple[str, ...]
    num_blank: int = 0
    unused: tuple[str, ...] = ()

    def unique(self) -> ConceptList:
        """Each concept once, where it first stands. Repeated concepts otherwise all take part in the softmax."""
        return ConceptList(tuple(dict.fromkeys(self.concepts)), self.num_blank, self.unused)

    @property
    def is_repeated(self) -> npt.NDArray[np.bool_]:
        """`[C]`: True for a concept that stands further up in the list too, letter by letter."""
        first: dict[str, int] = {}
        return np.array([first.setdefault(text, row) != row for row, text in enumerate(self.concepts)], dtype=bool)

    def notes(self) -> list[str]:
        """What a user may not know of the list, with numbers."""
        found = []
        if self.num_blank:
            found.append(f"{self.num_blank} blank lines of the concept list are no concepts.")
        if self.unused:
            found.append(f"Columns of the concept list that are not used: {', '.join(self.unused)}.")
        marked = [text for text in self.concepts if text.startswith("#")]
        if marked:
            found.append(
                f"Concepts that begin with #: {len(marked)} (first: {marked[0]!r}). A line is a concept, never a "
                "comment: remove those that are none."
            )
        return found + self._notes_of_equals()

    def _notes_of_equals(self) -> list[str]:
        found, total = [], len(self.concepts)
        twice = [text for text, again in zip(self.concepts, self.is_repeated, strict=True) if again]
        if twice:
            found.append(
                f"Concepts that repeat an earlier one: {len(twice)} of {total} (first: {twice[0]!r}). Each text is "
                "listed once among a neuron's labels, and shares the softmax as often as it stands in the list. "
                "--unique-concepts drops the repeated ones."
            )
        different = dict.fromkeys(self.concepts)
        alike = {text.casefold(): text for text in reversed(different)}
        near = [text for text in different if alike[text.casefold()] != text]
        if near:
            found.append(
                f"Concepts that differ from an earlier one in letter case alone: {len(near)} of {total} (first: "
                f"{near[0]!r}). They are concepts of their own."
            )
        return found


def parse(data: bytes, origin: str) -> ConceptList:
    """The concepts in a UTF-8 text file, one a line. Raises `ConceptError` saying which line is wrong."""
    found = lines(data, origin)
    concepts = tuple(line for line in found if line)
    return ConceptList(concepts, len(found) - len(concepts))


def lines(data: bytes, origin: str) -> list[str]:
    """All lines of a UTF-8 text file, blank ones too, without the blanks around them.

    Raises `ConceptError` saying which line is wrong, or that none has text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConceptError(
            f"{origin}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8. "
            f"Save the file as UTF-8, for instance with `iconv -f latin1 -t utf-8 {origin}`."
        ) from error
    found = [line.strip() for line in text.replace("\r\n", "\n").split("\n")]
    if not any(found):
        raise ConceptError(f"{origin} holds no concept ({len(data)} bytes, no line with text). Write one a line.")
    return found if found[-1] else found[:-1]  # what follows the last line break is not a line


def common_words(name: str) -> ConceptList:
    """The most frequent English words: `common-3k`, `common-10k` or `common-20k`."""
    import wordfreq  # in here: it reads its word lists when imported

    return ConceptList(tuple(wordfreq.top_n_list("en", COMMON[name])))


def imagenet_classes() -> ConceptList:
    """The 1,000 ImageNet class names in class order, as torchvision gives them."""
    from torchvision.models import ResNet50_Weights  # in here: torch takes seconds to import

    return ConceptList(tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"]))


def prompt(template: str, concept: str) -> str:
    """The text that is embedded for a concept: `{}` in the template stands for it."""
    return template.replace("{}", concept)
