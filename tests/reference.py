"""The oracle: CLIP-Dissect as slow float64 loops, written from the paper's equations and from nothing else.

T. Oikarinen and T.-W. Weng, "CLIP-Dissect", ICLR 2023 (arXiv 2204.10965v4), section 3.2 and appendix A.1. Where the
authors' published code departs from the paper, the function with `published` in its name or argument follows it.

Shapes as in the paper: `P [I, C]` CLIP similarity of image and concept, `A [I, N]` activations; `q = A[:, k]` is one
neuron. Similarities come as `[N, C]`. Nothing here is fast, clever or shared with the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = Sequence[float] | npt.NDArray[np.floating]
Matrix = npt.NDArray[np.floating]

#: What the published code adds inside the logarithms of WPMI and SoftWPMI.
EPSILON = 1e-7


class Pmi(NamedTuple):
    """An information-theoretic similarity `[N, C]` and its two terms, `[N, C]` and `[C]`."""

    similarity: Matrix
    log_likelihood: Matrix
    log_prior: Matrix


# --- the two cosines ---------------------------------------------------------------------------------------------


def cos(P: Matrix, A: Matrix) -> Matrix:
    """Equation 1: `P[:, m] · q / (‖P[:, m]‖ ‖q‖)`; 0 where either vector is all zeros."""
    return np.array([[_cosine(q, concept, 0.0) for concept in _columns(P)] for q in _columns(A)])


def cos_cubed(P: Matrix, A: Matrix, min_norm: float = 1e-3) -> Matrix:
    """Published code only: the cosine of mean-centred, cubed vectors, a norm counting as at least `min_norm`."""
    images = [_centred_cubes(column) for column in _columns(P)]
    neurons = [_centred_cubes(column) for column in _columns(A)]
    return np.array([[_cosine(q, concept, min_norm) for concept in images] for q in neurons])


def _cosine(x: Vector, y: Vector, min_norm: float) -> float:
    # math.hypot scales before it squares, so that tiny activations do not vanish.
    norms = max(math.hypot(*x), min_norm), max(math.hypot(*y), min_norm)
    if 0.0 in norms:
        return 0.0
    return math.fsum(a / norms[0] * (b / norms[1]) for a, b in zip(x, y, strict=True))


def _centred_cubes(x: Vector) -> list[float]:
    mean = math.fsum(x) / len(x)
    return [(value - mean) ** 3 for value in x]


# --- rank reorder ------------------------------------------------------------------------------------------------


def rank_reorder(P: Matrix, A: Matrix, top_k: int, p: float = 3.0) -> Matrix:
    """Equation 2 over the `top_k` most activating images (A.1): `-‖q' - q‖_p`."""
    return np.array(
        [
            [-(math.fsum(_errors(of_top, q, p)) ** (1 / p)) for of_top in _columns(P[rows])]
            for q, rows in _top_of_neurons(A, top_k)
        ]
    )


def rank_reorder_published(
    P: Matrix,
    A: Matrix,
    top_k: int,
    orders: Sequence[Sequence[Sequence[int]]],
    p: float = 3.0,
    scale: float = 0.5,
) -> Matrix:
    """As published: the mean of `|q' - q|^p`, over the same by chance, over `mean(P of the top images)^scale`.

    `orders[k]` holds the random orders of the top images that stand for chance at neuron `k`.
    """
    similarity = []
    for (q, rows), shuffles in zip(_top_of_neurons(A, top_k), orders, strict=True):
        by_chance = _mean(abs(q[i] - q[j]) ** p for order in shuffles for i, j in enumerate(order))
        similarity.append(
            [-_mean(_errors(of_top, q, p)) / by_chance / _mean(of_top) ** scale for of_top in _columns(P[rows])]
        )
    return np.array(similarity)


def _errors(of_top: Vector, q: Sequence[float], p: float) -> list[float]:
    """`|q' - q|^p` at every top image; `q` falls."""
    return [abs(moved - stays) ** p for moved, stays in zip(reordered(of_top, q), q, strict=True)]


def reordered(of_top: Vector, q: Sequence[float]) -> list[float]:
    """`q'`: the falling values `q` dealt out by the ranks of `of_top`, the largest to the largest.

    Among equal entries of `of_top` the earlier image gets the larger value.
    """
    by_rank = sorted(range(len(q)), key=lambda image: (-of_top[image], image))
    dealt = dict(zip(by_rank, q, strict=True))
    return [dealt[image] for image in range(len(q))]


# --- WPMI and SoftWPMI -------------------------------------------------------------------------------------------


def wpmi(
    P: Matrix,
    A: Matrix,
    top_k: int = 28,
    a: float = 2.0,
    lam: float = 0.6,
    live: Sequence[bool] | None = None,
    *,
    published: bool = False,
) -> Pmi:
    """Equations 3 and 8: `Σ_{x∈B_k} log p(t_m|x) - λ log p(t_m)`."""
    s = [softmax([a * value for value in image]) for image in P.tolist()]  # p(t_m|x_i), [I][C]
    epsilon = EPSILON if published else 0.0
    log_likelihood = [
        [math.fsum(math.log(s[x][m] + epsilon) for x in rows) for m in range(P.shape[1])]  # equation 6
        for _, rows in _top_of_neurons(A, top_k)
    ]
    return _pmi(log_likelihood, lam, live)


def soft_wpmi(
    P: Matrix,
    A: Matrix,
    top_k: int = 100,
    a: float = 10.0,
    lam: float = 1.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    live: Sequence[bool] | None = None,
    *,
    published: bool = False,
) -> Pmi:
    """Equations 4 and 14: `Σ_x log(1 + p(x∈B_k)(p(t_m|x) - 1)) - λ log p(t_m)`.

    An image beyond the `top_k`-th has `p(x∈B_k) = 0` and adds `log 1 = 0`: the sum runs over the top images.
    """
    s = [softmax([a * value for value in image]) for image in P.tolist()]  # p(t_m|x_i), [I][C]
    p = membership(top_k, p_start, p_end, published=published)
    epsilon = EPSILON if published else 0.0
    log_likelihood = [
        [
            math.fsum(math.log(1 + p[i] * (s[x][m] - 1) + epsilon) for i, x in enumerate(rows))  # equation 12
            for m in range(P.shape[1])
        ]
        for _, rows in _top_of_neurons(A, top_k)
    ]
    return _pmi(log_likelihood, lam, live)


def membership(top_k: int, p_start: float, p_end: float, *, published: bool = False) -> list[float]:
    """`p(x∈B_k)` by rank (A.1): linear from `p_start`, most activating image, to `p_end`, the `top_k`-th.

    The published code divides by `top_k`, not by `top_k - 1`, and so ends one step short of `p_end`.
    """
    steps = top_k if published else max(top_k - 1, 1)
    return [p_start - i / steps * (p_start - p_end) for i in range(top_k)]


def log_prior(log_likelihood: Sequence[Vector]) -> list[float]:
    """Equations 7 and 13: `p(t_m) = Σ_j p(t_m|B_j) / |C|` over the neurons of the layer, as a logarithm `[C]`."""
    return [log_sum_exp(column) - math.log(len(log_likelihood)) for column in zip(*log_likelihood, strict=True)]


def _pmi(log_likelihood: list[list[float]], lam: float, live: Sequence[bool] | None) -> Pmi:
    """Equation 5. Where `live` is given, only its neurons make the prior."""
    taking_part = [row for k, row in enumerate(log_likelihood) if live is None or live[k]]
    prior = log_prior(taking_part)
    similarity = [[row[m] - lam * prior[m] for m in range(len(row))] for row in log_likelihood]
    return Pmi(np.array(similarity), np.array(log_likelihood), np.array(prior))


# --- what they share ---------------------------------------------------------------------------------------------


def top_images(q: Vector, top_k: int) -> list[int]:
    """`B_k`: the rows of the `top_k` largest activations, largest first, the lower row first among equals."""
    return sorted(range(len(q)), key=lambda row: (-q[row], row))[:top_k]


def softmax(z: Sequence[float]) -> list[float]:
    """`e^{z_n} / Σ_j e^{z_j}` (A.1)."""
    largest = max(z)
    exponentials = [math.exp(value - largest) for value in z]
    return [value / math.fsum(exponentials) for value in exponentials]


def log_sum_exp(values: Sequence[float]) -> float:
    """`log Σ_j e^{v_j}`, the largest taken out first: likelihoods of 100 images are near e^-433."""
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def _columns(X: Matrix) -> list[list[float]]:
    return X.T.tolist()  # Python's floats, float64 whatever `X` is


def _top_of_neurons(A: Matrix, top_k: int) -> list[tuple[list[float], list[int]]]:
    """For every neuron the activations of its top images, falling, and their rows."""
    tops = [(q, top_images(q, top_k)) for q in _columns(A)]
    return [([q[row] for row in rows], rows) for q, rows in tops]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
