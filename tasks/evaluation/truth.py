"""True concepts of a layer's units: what labels are judged by."""

from __future__ import annotations

from dataclasses import dataclass

from storage.files import split
from tasks import sample
from tasks.concept_files import lines_of_file
from tasks.concepts import named_list
from tasks.dissection import concepts as lists
from tasks.dissection.errors import ConceptError
from tasks.evaluation.columns import column, is_table, read_table, units_of

#: Stands between names of one concept.
OR = "|"
#: What the column of true concepts is called.
CONCEPT = ("concept", "name", "class", "label", "description")


@dataclass(frozen=True)
class Truth:
    """What each unit is known to detect: line i holds the names of unit i, and is blank where that is not known."""

    origin: str
    lines: tuple[str, ...]
    #: Whether units beyond the lines are not known, as in a table, which names units by number.
    is_open: bool = False

    def of(self, layer: str, num_units: int) -> tuple[str, ...]:
        """A line for each of a layer's units. Raises `ConceptError` where there are more or fewer."""
        lines = list(self.lines)
        while len(lines) > num_units and not lines[-1]:
            lines.pop()
        if self.is_open:
            lines += [""] * (num_units - len(lines))
        if len(lines) != num_units:
            raise ConceptError(
                f"--truth {self.origin} has {len(lines)} concepts, and the layer {layer} has {num_units} neurons. "
                "Line i is the true concept of neuron i of that layer, blank where it is not known."
            )
        return tuple(lines)


def names_of(line: str) -> tuple[str, ...]:
    """Names of one true concept: `tench | Tinca tinca` are two, either of which is right; of a blank line, none."""
    return tuple(name.strip() for name in line.split(OR) if name.strip())


def read_truth(name: str) -> Truth:
    """True concepts by the name of a list (`imagenet`, `sample`) or from a file.

    A text file has a line per unit, blank where its concept is not known, with `|` between names of one concept. A
    table (.csv, .parquet) has columns `unit` and `concept` (or another of `CONCEPT`), and a row for each name.
    Raises `ConceptError` and `TableError`.
    """
    if name == "sample":
        return Truth(name, lists.parse(sample.CLASSES.read_bytes(), sample.CLASSES.name).concepts)
    if name == "imagenet" or name in lists.COMMON:
        return Truth(name, named_list(name).concepts)
    if is_table(name):
        return _of_table(name)
    return Truth(name, tuple(" | ".join(names_of(line)) for line in lines_of_file(name)))


def _of_table(url: str) -> Truth:
    origin = split(url)[1]
    table = read_table(url)
    concepts = column(table, CONCEPT, origin).fillna("").astype(str)
    names: dict[int, list[str]] = {}
    for unit, concept in zip(units_of(table, origin).tolist(), concepts, strict=True):
        names.setdefault(unit, []).extend(names_of(concept))
    if not any(names.values()):
        raise ConceptError(f"{origin} holds no concept ({len(table)} rows).")
    return Truth(url, tuple(" | ".join(names.get(unit, ())) for unit in range(max(names) + 1)), is_open=True)
