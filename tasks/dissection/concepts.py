"""Concept lists: what a neuron may be called."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.dissection.errors import ConceptError

#: Most frequent English words, by how many.
COMMON = {"common-3k": 3_000, "common-10k": 10_000, "common-20k": 20_000}


@dataclass(frozen=True)
class ConceptList:
    """Concepts in the order of their rows.

    `num_blank` lines of the file held nothing and are no concepts, neither when embedding nor when naming.
    """

    concepts: tuple[str, ...]
    num_blank: int = 0

    def unique(self) -> ConceptList:
        """Each concept once, where it first stands. Repeated concepts otherwise all take part in the softmax."""
        return ConceptList(tuple(dict.fromkeys(self.concepts)), self.num_blank)


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
