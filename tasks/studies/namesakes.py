"""Classes of one name, which a label cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from tasks.dissection.metrics import Flags
from tasks.evaluation.shown_concepts import concept_key

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Namesakes:
    """Classes that have a name in common, as ImageNet's two cranes: what is said by name is right for either."""

    num_classes: int
    #: Pairs of two such classes, `one * num_classes + other`, rising.
    pairs: Numbers

    @classmethod
    def of(cls, names: Sequence[Sequence[str]]) -> Namesakes:
        """Classes by all the names of each."""
        bearers: dict[str, set[int]] = {}
        for number, of in enumerate(names):
            for name in of:
                bearers.setdefault(concept_key(name), set()).add(number)
        pairs = {one * len(names) + other for group in bearers.values() for one, other in permutations(group, 2)}
        return cls(len(names), np.array(sorted(pairs), dtype=np.int64))

    def is_right(self, predicted: Numbers, true: Numbers) -> Flags:
        """True where a class `[I]` is the true one, or has a name of it. Numbers below 0 are of no class."""
        is_class = (predicted >= 0) & (true >= 0)
        is_namesake = np.isin(true * self.num_classes + predicted, self.pairs)
        found: Flags = is_class & ((predicted == true) | is_namesake)
        return found

    @property
    def num_with_one(self) -> int:
        """How many classes have a name in common with another."""
        return len(np.unique(self.pairs // self.num_classes))
