"""How good labels are where the truth is known (paper section 4.2), and how much they say where it is not.

A figure is a `Statistic` of units, the neurons of a layer: its value and its bootstrap interval are of one formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.dissection.bootstrap import Counts, Floats, Statistic

Flags = npt.NDArray[np.bool_]


def normal(text: str) -> str:
    """A label or name as it is compared: letter case and the blanks around it do not count."""
    return text.strip().casefold()


def right_ranks(labels: Sequence[Sequence[str]], names: Sequence[Sequence[str]]) -> Floats:
    """Rank of each unit's first right label, `[U]`, from 1; infinite where none of its labels is right.

    `labels` holds a unit's labels best first, `names` what its true concept is called, any of which is right. Raises
    `ValueError` where the numbers of units differ, or there is none.
    """
    if len(labels) != len(names):
        raise ValueError(f"{len(labels)} neurons have labels and {len(names)} have a true concept.")
    if not names:
        raise ValueError("There is no neuron to judge.")
    ranks = np.full(len(labels), np.inf)
    for unit, (given, true) in enumerate(zip(labels, names, strict=True)):
        right = {normal(name) for name in true}
        ranks[unit] = next((rank for rank, label in enumerate(given, 1) if normal(label) in right), np.inf)
    return ranks


def has_right(concepts: Sequence[str], names: Sequence[Sequence[str]]) -> Flags:
    """`[U]`: True for a unit whose true concept, by any of its names, is among those that labels are chosen from."""
    listed = {normal(concept) for concept in concepts}
    return np.array([any(normal(name) in listed for name in true) for true in names], dtype=bool)


def ranks_in(similarities: Floats, is_right: Flags) -> Floats:
    """Rank of each unit's most similar right concept among all concepts, `[U]`, from 1.

    `similarities` and `is_right` are `[U, C]`. Ties go to the concept listed first, as in label tables. Infinite
    where no concept is right, or where none that is has a similarity.
    """
    known = np.where(np.isnan(similarities), -np.inf, similarities)
    best = np.where(is_right, known, -np.inf).max(axis=1, keepdims=True)  # [U, 1]
    first = (is_right & (known == best)).argmax(axis=1)[:, None]
    listed_before = np.arange(known.shape[1]) < first
    ranks = 1.0 + (known > best).sum(axis=1) + ((known == best) & listed_before).sum(axis=1)
    return np.where(np.isneginf(best[:, 0]), np.inf, ranks)


def accuracy(ranks: Floats, top: int = 1) -> Statistic:
    """Share of units whose true concept is among their `top` first labels (paper section 4.2 b), from 0 to 1."""
    return mean(ranks <= top)


def mean(values: npt.NDArray[np.float64 | np.bool_]) -> Statistic:
    """Mean of `values` `[U]`; infinite where one is."""
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)

    def of_counts(counts: Counts) -> Floats:
        means: Floats = counts @ known / counts.sum(axis=1)
        means[counts[:, ~finite].any(axis=1)] = np.inf
        return means

    return Statistic(len(values), of_counts)


def median(values: Floats) -> Statistic:
    """Median of `values` `[U]`, the mean of the middle two where their number is even.

    Infinite values are larger than all: of ranks that are only known to be large, the median is known while most are
    small.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]

    def of_counts(counts: Counts) -> Floats:
        reached = np.cumsum(counts[:, order], axis=1)  # [B, U]
        total = reached[:, -1:]
        middle = [(reached > (total - shift) // 2).argmax(axis=1) for shift in (1, 0)]
        return np.asarray((ordered[middle[0]] + ordered[middle[1]]) / 2)

    return Statistic(len(values), of_counts)


def roc_auc(scores: Floats, is_right: Flags) -> Statistic:
    """Area under the ROC curve of `scores` `[U]` as a predictor of `is_right` `[U]`.

    The share of pairs of a right unit and a wrong one in which the right one has the higher score, a tie being half
    of one (Hanley & McNeil 1982). Not defined where all are right, or all wrong.
    """
    order = np.argsort(scores, kind="stable")
    ordered_scores = scores[order]
    starts = np.flatnonzero(np.append(True, ordered_scores[1:] != ordered_scores[:-1]))  # of equal scores
    right = is_right[order]

    def of_counts(counts: Counts) -> Floats:
        ordered = counts[:, order]
        num_right = np.add.reduceat(ordered * right, starts, axis=1)  # [B, different scores]
        num_wrong = np.add.reduceat(ordered * ~right, starts, axis=1)
        wrong_below = np.cumsum(num_wrong, axis=1) - num_wrong
        won = (num_right * (wrong_below + num_wrong / 2)).sum(axis=1)
        pairs = num_right.sum(axis=1) * num_wrong.sum(axis=1)
        areas: Floats = np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
        return areas

    return Statistic(len(scores), of_counts)


def distinct(labels: Sequence[str]) -> int:
    """How many different labels units have."""
    return len({normal(label) for label in labels})


def entropy(labels: Sequence[str]) -> float:
    """Entropy of the labels' shares in bits: 0 where all units have one label, log2 U where each has its own.

    Without an interval, as `distinct`: units drawn with replacement have fewer labels than there are.
    """
    _, counts = np.unique(np.array([normal(label) for label in labels], dtype=object), return_counts=True)
    shares = counts / counts.sum()
    return max(0.0, -float((shares * np.log2(shares)).sum()))
