"""Groups of concepts whose images are left out of a probe set, and the neurons that detect them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from storage.tables import read_parquet
from tasks.concepts import named_list
from tasks.evaluation.shown_concepts import concept_key as key
from tasks.evaluation.truth import names_of
from tasks.finished import StudyError
from tasks.probe_index import INDEX
from tasks.shard import ProbeRef

#: Names of the true concept of neurons, by neuron.
Truth = Mapping[int, Sequence[str]]


@dataclass(frozen=True)
class Group:
    """Concepts that are left out together."""

    name: str
    #: All names of each of its concepts, any of which an image's class or a neuron's true concept may be called.
    concepts: tuple[tuple[str, ...], ...]

    @property
    def keys(self) -> frozenset[str]:
        """All names as they are compared."""
        return frozenset(key(name) for names in self.concepts for name in names)

    def neurons(self, truth: Truth) -> list[int]:
        """Neurons whose true concept is one of these."""
        return [neuron for neuron, names in truth.items() if not self.keys.isdisjoint(map(key, names))]

    def rows_without(self, classes: pd.Series) -> Tensor:
        """Rows (rising) of the images whose class is none of these."""
        has = classes.map(lambda text: key(text) in self.keys, na_action="ignore").fillna(False).to_numpy(dtype=bool)
        return torch.from_numpy(np.flatnonzero(~has))


def classes_of(probe: ProbeRef) -> pd.Series:
    """The class of each image of a probe set, null where it has none."""
    return read_parquet(probe.folder, INDEX, columns=["label"])["label"]


def of_lists(files: Sequence[str]) -> list[Group]:
    """A group per list: a text file with a concept a line, `|` between names of one. Raises `ConceptError`."""
    lists = {PurePosixPath(file).stem: named_list(file).concepts for file in files}
    if len(lists) < len(files):
        raise StudyError(f"Two lists of one name: {', '.join(files)}. Each is a group of its own: rename one.")
    return [Group(name, tuple(map(names_of, lines))) for name, lines in lists.items()]


def folds(classes: pd.Series, truth: Truth, num_folds: int, seed: int) -> list[Group]:
    """The concepts that have both images and a neuron, dealt out at random: each is left out once.

    Raises `StudyError` where there are fewer than folds.
    """
    known = {key(text) for text in classes.dropna().unique()}
    concepts = list(dict.fromkeys(tuple(names) for names in truth.values() if not known.isdisjoint(map(key, names))))
    if len(concepts) < num_folds:
        raise StudyError(
            f"{len(concepts)} classes of the probe set's images are true concepts of neurons, and {num_folds} groups "
            "of them are to be left out in turn. --absent LIST names concepts; of those that the probe set has no "
            "images of, nothing is left out."
        )
    order = np.random.default_rng(seed).permutation(len(concepts))
    dealt = [order[start::num_folds] for start in range(num_folds)]
    return [Group(f"fold {number}", tuple(concepts[i] for i in sorted(fold))) for number, fold in enumerate(dealt, 1)]
