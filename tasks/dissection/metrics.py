"""How good labels are where the truth is known (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence


def accuracy(labels: Sequence[Sequence[str]], truth: Sequence[str], top: int = 1) -> float:
    """Share of neurons whose true concept is among their `top` first labels (paper section 4.2 b).

    `labels` holds a neuron's concepts best first, `truth` its true concept; letter case does not count. Raises
    `ValueError` where the numbers of neurons differ.
    """
    if len(labels) != len(truth):
        raise ValueError(f"{len(labels)} neurons have labels and {len(truth)} have a true concept.")
    if not truth:
        raise ValueError("There is no neuron to judge.")
    right = sum(
        true.casefold() in [concept.casefold() for concept in concepts[:top]]
        for concepts, true in zip(labels, truth, strict=True)
    )
    return right / len(truth)
