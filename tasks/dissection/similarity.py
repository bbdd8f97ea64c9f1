"""The similarity functions of CLIP-Dissect (paper section 3.2 and appendix A.1), on whole arrays.

`P [I, C]` is the concept-activation matrix: CLIP similarity of image and concept (rows of unit embeddings).
`A [I, N]` holds the activations of one layer's neurons on the same images. Every function gives `Scores` with
`similarity [N, C]`; a neuron's label is the concept of its largest entry.

Each has two variants. `paper` follows the equations. `reference` gives what the authors' published code gives,
epsilons and all, so that results can be compared to the last digit.

A similarity that looks only at top images gives the same when both arrays are cut down to the rows that are a
top image of some neuron, in order: what labelling costs then does not depend on `I`. It takes `TopImages` in place
of `A` as well. `panels.py` does all of it without ever holding `P`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.dissection.kernels import log_of_products
from tasks.dissection.streaming import LogMeanExp, TopImages

Variant = Literal["paper", "reference"]

#: The published code adds this inside its logarithms; the equations do not.
REFERENCE_EPSILON = 1e-7
#: Neurons whose scores are in float64 at a time.
NEURONS_PER_BLOCK = 1_024


@dataclass(frozen=True)
class Scores:
    """How well every concept describes every neuron of a layer.

    `similarity [N, C]`. The information-theoretic functions also give what it is made of, natural logarithms:
    `log_likelihood [N, C]` (`log p(m|B_k)`) and `log_prior [C]` (`log p(m)`); the others give None.
    """

    similarity: Tensor
    log_likelihood: Tensor | None = None
    log_prior: Tensor | None = None


def cos(P: Tensor, A: Tensor, *, variant: Variant = "paper") -> Scores:
    """Cosine of `P[:, m]` and `q_k` (equation 1). A neuron that is 0 on every image gets 0 (published: NaN)."""
    del variant  # both are the same
    return Scores(_unit_columns(A, 0.0).T @ _unit_columns(P, 0.0))  # [N, C]


def cos_cubed(P: Tensor, A: Tensor, *, min_norm: float = 1e-3, variant: Variant = "paper") -> Scores:
    """Cosine of mean-centred, cubed columns, with norms of at least `min_norm`.

    It stands in the published code only, and both variants are that.
    """
    del variant
    images, neurons = P - P.mean(0), A - A.mean(0)
    return Scores(_unit_columns(neurons**3, min_norm).T @ _unit_columns(images**3, min_norm))  # [N, C]


def rank_reorder(
    P: Tensor,
    A: Tensor | TopImages,
    *,
    top_k: int,
    p: float = 3.0,
    scale: float = 0.5,
    num_permutations: int = 5,
    seed: int = 0,
    variant: Variant = "paper",
) -> Scores:
    """`-‖q'_k - q_k‖_p` over the `top_k` top images (equation 2; the paper takes 5 % of the probe set).

    `q'_k` has the values of `q_k` in the order of `P[:, m]`. The reference variant takes the mean of `|d|^p`
    without the root, divides it by the same for `num_permutations` random orders (seeded here), and by
    `mean(P[:, m])^scale` over the top images.
    """
    top = top_images(A, top_k)
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.empty(top.rows.shape[1], P.shape[1], dtype=P.dtype)
    for neuron in range(len(similarity)):
        q = top.values[:, neuron].to(P.dtype)  # [K], falling
        of_top = P[top.rows[:, neuron]].T.contiguous()  # [C, K]
        # The image that is j-th by P gets the j-th largest activation, q[j]; its own is q[order[j]].
        order = of_top.argsort(dim=1, descending=True, stable=True)  # [C, K]
        error = (q - q[order]).abs_().pow_(p)  # [C, K]
        if variant == "paper":
            similarity[neuron] = -error.sum(1).pow(1 / p)
            continue
        orders = [torch.randperm(len(q), generator=generator) for _ in range(num_permutations)]
        by_chance = torch.stack([(q - q[order]).abs().pow(p).mean() for order in orders]).mean()
        similarity[neuron] = -error.mean(1) / by_chance / of_top.mean(1).pow(scale)
    return Scores(similarity)


def wpmi(
    P: Tensor,
    A: Tensor | TopImages,
    *,
    top_k: int = 28,
    a: float = 2.0,
    lam: float = 0.6,
    live: Tensor | None = None,
    log_normaliser: Tensor | None = None,
    variant: Variant = "paper",
) -> Scores:
    """`Σ_{x∈B_k} log s(m|x) - λ log p(m)`, `B_k` the `top_k` top images (equation 3, A.1).

    `live` `[N]` (bool): the neurons whose likelihoods make the prior; all by default. `log_normaliser` `[I]`: see
    `log_shares`.
    """
    top = top_images(A, top_k)
    log_s = log_shares(P, a, log_normaliser)  # [I, C]
    if variant == "reference":
        log_s = (log_s.exp() + REFERENCE_EPSILON).log()
    log_likelihood = torch.zeros(top.rows.shape[1], P.shape[1], dtype=P.dtype)
    for rows in top.rows:  # [N], the k-th top image of every neuron
        log_likelihood += log_s[rows]
    return _weighed(log_likelihood, 0.0, lam, live)


def soft_wpmi(
    P: Tensor,
    A: Tensor | TopImages,
    *,
    top_k: int = 100,
    a: float = 10.0,
    lam: float = 1.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    live: Tensor | None = None,
    log_normaliser: Tensor | None = None,
    variant: Variant = "paper",
) -> Scores:
    """`Σ_x log(1 + p(x∈B_k)(s(m|x) - 1)) - λ log p(m)` (equation 4, A.1).

    `p(x∈B_k)` falls linearly from `p_start` (most activating image) to `p_end` (`top_k`-th), 0 beyond.
    `live` `[N]` (bool): the neurons whose likelihoods make the prior; all by default. `log_normaliser` `[I]`: see
    `log_shares`.
    """
    top = top_images(A, top_k)
    s = log_shares(P, a, log_normaliser).exp_()  # [I, C]
    p = membership(top_k, p_start, p_end, variant)[: top.num_images]  # [K]
    # log(1 - p + p s) = log(1 - p) + log(1 + odds s). The first term, about -4 an image, is the same for every
    # concept; left in the sum it would eat the digits that tell concepts apart (it is why the published float32
    # scores are all multiples of 2^-15).
    rest = 1 - p + (REFERENCE_EPSILON if variant == "reference" else 0.0)  # [K]
    gain = log_of_products(s, top.rows, p / rest)  # [N, C]
    return _weighed(gain, float(rest.log().sum()), lam, live)


def top_images(A: Tensor | TopImages, top_k: int) -> TopImages:
    """The `top_k` top images of activations `[I, N]`, or of top images found before."""
    return A.first(top_k) if isinstance(A, TopImages) else TopImages.of(A, top_k)


def log_shares(P: Tensor, a: float, log_normaliser: Tensor | None = None) -> Tensor:
    """`log s(m|x) = log softmax_m(a P[x, :])` `[I, C]`.

    Where `P` holds only some of the concepts, `log_normaliser` `[I]` is `log Σ_m exp(a P[x, m])` over all of them,
    and `P` is overwritten: fresh memory for every panel costs as much as the product that fills it.
    """
    return F.log_softmax(a * P, dim=1) if log_normaliser is None else P.mul_(a).sub_(log_normaliser[:, None])


def membership(num_images: int, p_start: float, p_end: float, variant: Variant = "paper") -> Tensor:
    """`p(x∈B_k)` `[K]` float64 of the top images, most activating first (A.1).

    The paper's last image has `p_end`; the published code's falls one step short of it.
    """
    steps = max(num_images - 1, 1) if variant == "paper" else num_images
    return p_start - torch.arange(num_images, dtype=torch.float64) / steps * (p_start - p_end)


def _weighed(log_likelihood: Tensor, constant: float, lam: float, live: Tensor | None) -> Scores:
    """Likelihood less λ times the prior over the layer's live neurons; `constant` is part of every likelihood.

    In float64, a block of neurons at a time: whole, the copies would be what labelling needs most memory for.
    """
    taking_part = log_likelihood if live is None or not live.any() or live.all() else log_likelihood[live]
    blocks = [slice(n, n + NEURONS_PER_BLOCK) for n in range(0, len(log_likelihood), NEURONS_PER_BLOCK)]
    parts = (LogMeanExp.of(taking_part[block]) for block in blocks if block.start < len(taking_part))
    log_prior = reduce(LogMeanExp.merge, parts).finish()  # [C]
    shift = (1 - lam) * constant - lam * log_prior  # [C]
    similarity = torch.empty_like(log_likelihood)
    for block in blocks:
        similarity[block] = log_likelihood[block].double() + shift
    return Scores(similarity, log_likelihood + constant, log_prior + constant)


def _unit_columns(X: Tensor, min_norm: float) -> Tensor:
    """Columns scaled to norm 1, or by `1 / min_norm` where shorter; a column of zeros stays zero."""
    tiny = torch.finfo(X.dtype).tiny
    largest = X.abs().amax(dim=0, keepdim=True).clamp(min=tiny)  # taken out first: squares of 1e-25 are 0 in float32
    unit = X / largest
    norms: Tensor = torch.linalg.vector_norm(unit, dim=0, keepdim=True)
    return unit / torch.maximum(norms, min_norm / largest).clamp(min=tiny)


#: By the name that users give: `--similarity soft_wpmi`.
SIMILARITIES: dict[str, Callable[..., Scores]] = {
    "soft_wpmi": soft_wpmi,
    "wpmi": wpmi,
    "rank_reorder": rank_reorder,
    "cos": cos,
    "cos_cubed": cos_cubed,
}
