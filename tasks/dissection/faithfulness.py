"""How well labels say what neurons do where the truth is not known: by activations on images.

Shapes: `b` images of a block, `N` neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of two variables of every neuron, from blocks of images; all `[N]` float64.

    Means, and sums of squares and of products of distances from them, so that large means lose no digits (Chan, Golub
    & LeVeque 1983).
    """

    count: Tensor
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor

    @classmethod
    def of(cls, X: Tensor, Y: Tensor) -> Correlation:
        """Of a block of rows `[b, N]` each; a pair with a number that is not finite is left out."""
        known = X.isfinite() & Y.isfinite()  # [b, N]
        count = known.sum(0).double()
        ignored = None if known.all() else ~known  # as nearly always, and then in half the time
        x, y = (_without(V.double(), ignored) for V in (X, Y))
        mean_x, mean_y = (v.sum(0) / count.clamp(min=1) for v in (x, y))
        x, y = (_without(v - mean, ignored) for v, mean in ((x, mean_x), (y, mean_y)))
        return cls(count, mean_x, mean_y, x.square().sum(0), y.square().sum(0), (x * y).sum(0))

    def merge(self, other: Correlation) -> Correlation:
        """Of the rows of both."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * share
        return Correlation(
            count,
            self.mean_x + dx * share,
            self.mean_y + dy * share,
            self.xx + other.xx + dx * dx * weight,
            self.yy + other.yy + dy * dy * weight,
            self.xy + other.xy + dx * dy * weight,
        )

    def finish(self) -> Floats:
        """Correlations `[N]`; NaN where one of the two is the same on all images."""
        scale = (self.xx * self.yy).sqrt()
        known = self.xy.new_full(scale.shape, torch.nan).where(scale == 0, self.xy / scale)
        values: Floats = known.clamp(-1, 1).numpy()
        return values


def _without(values: Tensor, ignored: Tensor | None) -> Tensor:
    """Values with 0 in place of those that are ignored."""
    return values if ignored is None else values.masked_fill(ignored, 0)


def auc(shown: Floats, control: Floats) -> float:
    """Share of pairs of an image that shows the concept and one of the control in which the first activates more.

    A tie is half of one: the area under the ROC curve, Mann-Whitney's U by the number of pairs (CoSy's Ψ_AUC; Kopf
    et al., "CoSy: Evaluating Textual Explanations of Neurons", NeurIPS 2024, section 3). NaN without a pair.
    """
    if not len(shown) or not len(control):
        return np.nan
    ordered = np.sort(control)
    below = np.searchsorted(ordered, shown, side="left")
    at_most = np.searchsorted(ordered, shown, side="right")
    return float((below + at_most).mean() / 2 / len(control))


def mad(shown: Floats, control: Floats) -> float:
    """Mean activation difference: `(mean(shown) - mean(control)) / std(control)`, in standard deviations.

    CoSy's Ψ_MAD (as `auc`), whose standard deviation divides by the number of images. NaN where that is 0, or
    without an image.
    """
    if not len(shown) or not len(control):
        return np.nan
    spread = float(control.std())
    return float(shown.mean() - control.mean()) / spread if spread > 0 else np.nan


def rank_correlations(X: Tensor, Y: Tensor) -> Floats:
    """Spearman's rank correlation of the rows of `X [N, S]` and `Y [N, S]`, `[N]`; ties share their mean rank.

    NaN where a row has one value throughout, or fewer than two.
    """
    if not X.shape[1]:
        return np.full(len(X), np.nan)
    x, y = _ranks(X.numpy()), _ranks(Y.numpy())  # [N, S]
    return Correlation.of(torch.from_numpy(x.T), torch.from_numpy(y.T)).finish()


def _ranks(values: npt.NDArray[np.float32]) -> Floats:
    """Ranks from 0 within each row, equal values sharing the mean of theirs."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    ranks = np.empty(values.shape)
    columns = np.arange(values.shape[1])
    is_new = np.ones(values.shape, dtype=bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(is_new, columns, 0), axis=1)
    is_last = np.ones(values.shape, dtype=bool)
    is_last[:, :-1] = is_new[:, 1:]
    last = np.minimum.accumulate(np.where(is_last, columns, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


def overlap(rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> Floats:
    """Share of the concepts `[N, R]` of each neuron that are among its others `[N, R]`, `[N]`."""
    is_common = (rows[:, :, None] == others[:, None, :]).any(axis=2)
    shares: Floats = is_common.mean(axis=1)
    return shares
