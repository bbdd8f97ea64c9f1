"""A neuron's upper range (A.7): images drawn at random from its most active 0.1, 1 and 5 %.

Shapes: `I` images, `N` neurons, `M` largest, `R` ranges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Thousandths of the images that a range has, by what it is called.
RANGES = {"0.1 %": 1, "1 %": 10, "5 %": 50}
#: Images drawn of each range.
NUM_DRAWN = 5
#: Seed of what is drawn.
SEED = 0
#: Neurons whose draws are made at once, so that they do not depend on which other neurons are looked at.
NEURONS_PER_DRAW = 128
#: A key after those of all activations.
LAST = np.iinfo(np.int64).max

Keys = npt.NDArray[np.int64]
Integers = npt.NDArray[np.int64]
Activations = npt.NDArray[np.float32]


def in_range(num_images: Integers | int, thousandths: int) -> Integers:
    """How many images a range has: at least one, where there is one."""
    sizes: Integers = np.minimum(np.maximum(1, np.asarray(num_images) * thousandths // 1000), num_images)
    return sizes


def keys_of(activations: Activations, rows: Integers) -> Keys:
    """A number for each activation `[N, b]` of images `rows [b]` or `[N, b]`: the larger, the earlier it is in order.

    Equal activations are in the order of their rows. An activation of -inf is last.
    """
    bits = (activations + np.float32(0)).view(np.int32)  # 0 and -0 are one
    # Floats are in the order of their bits, the negative ones the wrong way round.
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys: Keys = (~rising).astype(np.int64) << 32
    keys |= rows
    return keys


def of_keys(keys: Keys) -> tuple[Activations, Integers]:
    """The activations and the rows that keys are of."""
    rising = ~(keys >> 32).astype(np.int32)
    return (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(np.float32), keys & 0xFFFFFFFF


class Largest:
    """The `m` largest activations of every neuron, and the rows of their images, of blocks in the order of rows."""

    def __init__(self, num_neurons: int, m: int) -> None:
        self._m = m
        self._kept: Keys = np.empty((num_neurons, 0), np.int64)
        self._waiting: list[Keys] = []
        self._num_waiting = 0
        #: The last of `m` that are kept `[N]`: of later images, only larger activations are among the largest.
        self._floor: Activations | None = None

    def add(self, block: Activations, first_row: int) -> None:
        """Takes in activations `[rows, N]`, the first of row `first_row` of the probe set."""
        keys = self._above(block, first_row, self._floor) if self._floor is not None else _all(block, first_row)
        self._waiting.append(keys)
        self._num_waiting += keys.shape[1]
        if self._num_waiting >= self._m:  # to look at what is kept again costs as much as so many others
            self._merge()

    def finish(self) -> Keys:
        """Keys of the `min(m, I)` largest `[N, M]`, the largest activation first."""
        self._merge()
        return np.sort(self._kept, axis=1)

    @staticmethod
    def _above(block: Activations, first_row: int, floor: Activations) -> Keys:
        """Keys of those above the floor, and `LAST` for neurons that have fewer than another."""
        neurons, images = (block > floor).T.nonzero()
        counts = np.bincount(neurons, minlength=len(floor))
        keys = np.full((len(floor), counts.max(initial=0)), LAST)
        positions = np.arange(len(neurons)) - np.repeat(counts.cumsum() - counts, counts)
        keys[neurons, positions] = keys_of(block[images, neurons], first_row + images)
        return keys

    def _merge(self) -> None:
        whole = np.concatenate([self._kept, *self._waiting], axis=1)
        if whole.shape[1] > self._m:
            whole.partition(self._m - 1, axis=1)
            whole = whole[:, : self._m].copy()
        if whole.shape[1] == self._m:
            self._floor, _ = of_keys(whole.max(axis=1))
        self._kept, self._waiting, self._num_waiting = whole, [], 0


def _all(block: Activations, first_row: int) -> Keys:
    return keys_of(np.ascontiguousarray(block.T), first_row + np.arange(len(block)))


def num_certain(parts: list[Keys], are_whole: list[bool]) -> Integers:
    """How many of the largest `[N, k]` of parts of the images are sure to be the largest of all, `[N]`.

    A part that is not whole has further ones, which come after its own.
    """
    floors = [part.max(axis=1) for part, is_whole in zip(parts, are_whole, strict=True) if not is_whole]
    if not floors:
        return np.full(len(parts[0]), sum(part.shape[1] for part in parts))
    floor = np.min(floors, axis=0)  # [N]
    num: Integers = np.sum([(part <= floor[:, None]).sum(axis=1) for part in parts], axis=0)
    return num


def drawn(first_neuron: int, num_images: Integers, num_known: Integers, num_drawn: int = NUM_DRAWN) -> Integers:
    """Which of the largest are drawn of each range, `[N, R, num_drawn]`, rising; -1 where a range has fewer.

    `num_images [N]` are those that count for a neuron, and `num_known [N]` of its largest are known: of a range that
    has more, none is drawn. Each image of a range is as likely as any, and none is drawn twice.
    """
    draws = _uniform(first_neuron, len(num_images), num_drawn)  # [N, R, num_drawn]
    chosen = np.full((len(num_images), len(RANGES), num_drawn), -1)
    for number, thousandths in enumerate(RANGES.values()):
        size = in_range(num_images, thousandths)
        size = np.where(size <= num_known, size, 0)
        chosen[:, number] = _without_repeats(draws[:, number], size)
    return chosen


def _uniform(first_neuron: int, num_neurons: int, num_drawn: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that a neuron has whatever others are asked for."""
    first, last = first_neuron // NEURONS_PER_DRAW, -(-(first_neuron + num_neurons) // NEURONS_PER_DRAW)
    shape = NEURONS_PER_DRAW, len(RANGES), num_drawn
    draws = np.concatenate([np.random.default_rng((SEED, part)).random(shape) for part in range(first, last)])
    return draws[first_neuron - first * NEURONS_PER_DRAW :][:num_neurons]


def _without_repeats(draws: npt.NDArray[np.float64], size: Integers) -> Integers:
    """As many different numbers below `size [N]` as there are draws `[N, k]`, or all; rising, then -1.

    By Floyd's method: of k numbers, the i-th is drawn below size - k + i + 1, and is that bound where it came before.
    """
    num_neurons, k = draws.shape
    chosen = np.full((num_neurons, k), -1)
    for i in range(k):
        bound = size - k + i  # [N]; of few images, those with a bound below 0 are left out
        number = (draws[:, i] * (bound + 1)).astype(np.int64)
        is_again = (chosen == number[:, None]).any(axis=1)
        chosen[:, i] = np.where(bound < 0, -1, np.where(is_again, bound, number))
    order = np.sort(np.where(chosen < 0, LAST, chosen), axis=1)
    return np.where(order == LAST, -1, order)
