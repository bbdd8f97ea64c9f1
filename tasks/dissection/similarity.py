"""The similarity functions of CLIP-Dissect (paper section 3.2 and appendix A.1), on whole arrays.

`P [I, C]` is the concept-activation matrix: CLIP similarity of image and concept (rows of unit embeddings).
`A [I, N]` holds the activations of one layer's neurons on the same images. Every function gives `Scores` with
`similarity [N, C]`; a neuron's label is the concept of its largest entry.

Each has two variants. `paper` follows the equations. `reference` gives what the authors' published code gives,
epsilons and all, so that results can be compared to the last digit.

A similarity that looks only at top images gives the same when both arrays are cut down to the rows that are a
top image of some neuron, in order: what labelling costs then does not depend on `I`. It takes `TopImages` in place
of `A` as well. `scorers.py` uses the parts of these functions to do all of it without ever holding `P`.

An activation of -inf stands for an image that does not count for that neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.dissection.kernels import LogOfProducts
from tasks.dissection.ranks import reorder_errors
from tasks.dissection.streaming import LogMeanExp, TopImages
from tasks.dissection.threads import each

Variant = Literal["paper", "reference"]

#: The published code adds this inside its logarithms; the equations do not.
REFERENCE_EPSILON = 1e-7
#: Neurons whose scores are in float64 at a time.
NEURONS_PER_BLOCK = 1_024
#: Concepts, and images, that a thread works on.
CONCEPTS_PER_PART, IMAGES_PER_PART = 256, 1_024


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
    """Cosine of `P[:, m]` and `q_k` (equation 1). A neuron that is 0 on every image gets 0 (published: NaN).

    An activation of -inf counts as 0: it adds nothing to the sums.
    """
    del variant  # both are the same
    return Scores(_unit_columns(A.masked_fill(A.isneginf(), 0), 0.0).T @ _unit_columns(P, 0.0))  # [N, C]


def cos_cubed(P: Tensor, A: Tensor, *, min_norm: float = 1e-3, variant: Variant = "paper") -> Scores:
    """Cosine of mean-centred, cubed columns, with norms of at least `min_norm`.

    It stands in the published code only, and both variants are that. An activation of -inf counts as the mean of the
    neuron's others.
    """
    del variant
    images, ignored = P - P.mean(0), A.isneginf()
    mean = A.masked_fill(ignored, 0).sum(0) / (~ignored).sum(0).clamp(min=1)  # [N]
    neurons = (A - mean).masked_fill(ignored, 0)
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
    without the root, divides it by the same for `num_permutations` random orders (seeded here, the same for every
    neuron), and by `mean(P[:, m])^scale` over the top images: -inf where that is no number, as for a negative mean.
    """
    top = top_images(A, top_k)
    similarity = torch.empty(top.num_neurons, P.shape[1], dtype=P.dtype)
    num_counting = (top.values > -torch.inf).sum(0).tolist()
    for neuron, count in enumerate(num_counting):
        q = top.values[:count, neuron].to(P.dtype)  # [K], falling
        of_top = P[top.rows[:count, neuron]]  # [K, C]
        # The image that is j-th by P gets the j-th largest activation, q[j]; its own is q[order[j]].
        error = reorder_errors(of_top, q, p)  # [C]
        if variant == "paper":
            similarity[neuron] = -error.pow(1 / p)
            continue
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(count, generator=generator) for _ in range(num_permutations)]
        by_chance = torch.stack([(q - q[order]).abs().pow(p).mean() for order in orders]).mean()
        # Equal activations have no order: any gives an error of 0, one by chance too.
        error = error / count / by_chance.where(by_chance > 0, 1.0)
        similarity[neuron] = (-error / of_top.mean(0).pow(scale)).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    return Scores(similarity)


def wpmi(
    P: Tensor,
    A: Tensor | TopImages,
    *,
    top_k: int = 28,
    a: float = 2.0,
    lam: float = 0.6,
    live: Tensor | None = None,
    variant: Variant = "paper",
) -> Scores:
    """`Σ_{x∈B_k} log s(m|x) - λ log p(m)`, `B_k` the `top_k` top images (equation 3, A.1).

    `live` `[N]` (bool): the neurons whose likelihoods make the prior; all by default.
    """
    top, log_normaliser = top_images(A, top_k), log_sum_of_exponentials(P.clone(), a)
    if variant == "reference":
        likelihood = wpmi_reference_likelihood([P.clone()], log_normaliser, top, a)
    else:
        likelihood = wpmi_likelihood(sum_over_top([P], top), log_normaliser, top, a)
    return likelihood.against_prior(lam, live)


def wpmi_likelihood(sums: Tensor, log_normaliser: Tensor, top: TopImages, a: float) -> LogLikelihood:
    """`Σ_{x∈B_k} log s(m|x)` from `sums [N, C]`, the sums of `P` over each neuron's top images.

    `log s(m|x) = a P[x, m] - log_normaliser[x]`: a neuron's likelihood is linear in `P`, and so in the sum of its top
    images' embeddings.
    """
    shift = sum_over_top([log_normaliser[:, None]], top).double()  # [N, 1]
    constant = float(shift.mean())
    return LogLikelihood(sums.mul_(a).sub_((shift - constant).to(sums.dtype)), -constant)


def wpmi_reference_likelihood(P: Iterable[Tensor], log_normaliser: Tensor, top: TopImages, a: float) -> LogLikelihood:
    """`Σ_{x∈B_k} log(s(m|x) + ε)`, `P` in blocks of images `[B, C]`, which are overwritten."""
    logs = (s.add_(REFERENCE_EPSILON).log_() for s in shares(P, log_normaliser, a))
    return LogLikelihood(sum_over_top(logs, top), 0.0)


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
    variant: Variant = "paper",
) -> Scores:
    """`Σ_x log(1 + p(x∈B_k)(s(m|x) - 1)) - λ log p(m)` (equation 4, A.1).

    `p(x∈B_k)` falls linearly from `p_start` (most activating image) to `p_end` (`top_k`-th), 0 beyond.
    `live` `[N]` (bool): the neurons whose likelihoods make the prior; all by default.
    """
    terms = SoftTerms.of(top_images(A, top_k), membership(top_k, p_start, p_end, variant), variant)
    return terms.likelihood([P.clone()], log_sum_of_exponentials(P.clone(), a), a).against_prior(lam, live)


@dataclass(frozen=True)
class SoftTerms:
    """What `Σ_x log(1 + p(x∈B_k)(s(m|x) - 1))` is, whatever the concepts: sorted once for all panels of them.

    `ignored [N]`: what images that do not count for a neuron would add to `constant`.
    """

    products: LogOfProducts
    constant: float
    ignored: Tensor

    @classmethod
    def of(cls, top: TopImages, p: Tensor, variant: Variant = "paper") -> SoftTerms:
        """Of top images with membership `p [K]`."""
        p = p[: top.num_images, None]  # [K, 1]
        # log(1 - p + p s) = log(1 - p) + log(1 + odds s). The first term, about -4 an image, is the same for every
        # concept; left in the sum it would eat the digits that tell concepts apart (it is why the published float32
        # scores are all multiples of 2^-15).
        rest = 1 - p + (REFERENCE_EPSILON if variant == "reference" else 0.0)
        # An image that does not count has p = 0 and adds log 1.
        ignored = top.values.isneginf()  # [K, N]
        odds = (p / rest).to(top.values).expand(ignored.shape).masked_fill(ignored, 0)
        return cls(LogOfProducts(top.rows, odds), float(rest.log().sum()), ignored.T.double() @ rest.log()[:, 0])

    def likelihood(self, P: Iterable[Tensor], log_normaliser: Tensor, a: float) -> LogLikelihood:
        """`P` in blocks of images `[B, C]`, which are overwritten."""
        products, first = self.products.anew(), 0
        for s in shares(P, log_normaliser, a):
            products.add(s, first)
            first += len(s)
        gain = products.finish()
        if self.ignored.any():
            gain -= self.ignored[:, None].to(gain)
        return LogLikelihood(gain, self.constant)


@dataclass(frozen=True)
class LogLikelihood:
    """`log p(m|B_k)` as `differing [N, C]` and `constant`, which is the same for every neuron and concept."""

    differing: Tensor
    constant: float

    def against_prior(self, lam: float, live: Tensor | None = None, neurons: slice = slice(None)) -> Scores:
        """Likelihood less λ times the prior over a layer's live neurons; the layer is the neurons given.

        In float64, some concepts and a block of neurons at a time: whole, the copies would be what labelling needs
        most memory for.
        """
        layer = self.differing[neurons]
        taking_part = layer if live is None or not live.any() or live.all() else layer[live]
        similarity, likelihood = torch.empty_like(layer), torch.empty_like(layer)
        log_prior = torch.empty(layer.shape[1], dtype=torch.float64)

        def subtract(start: int) -> None:
            some = slice(start, start + CONCEPTS_PER_PART)
            parts = (LogMeanExp.of(block[:, some]) for block in torch.split(taking_part, NEURONS_PER_BLOCK))
            log_prior[some] = reduce(LogMeanExp.merge, parts).finish()  # [c]
            shift = (1 - lam) * self.constant - lam * log_prior[some]  # [c]
            for first in range(0, len(layer), NEURONS_PER_BLOCK):
                block = slice(first, first + NEURONS_PER_BLOCK), some
                similarity[block] = (layer[block].double() + shift).to(layer)
                likelihood[block] = layer[block] + self.constant

        each(subtract, range(0, layer.shape[1], CONCEPTS_PER_PART))
        return Scores(similarity, likelihood, log_prior + self.constant)


def top_images(A: Tensor | TopImages, top_k: int) -> TopImages:
    """The `top_k` top images of activations `[I, N]`, or of top images found before."""
    return A.first(top_k) if isinstance(A, TopImages) else TopImages.of(A, top_k)


def log_sum_of_exponentials(P: Tensor, a: float) -> Tensor:
    """`log Σ_m exp(a P[x, m])` `[I]`: what makes `exp(a P)` a softmax.

    `P` is overwritten. (`torch.logsumexp` would hold copies of it.)
    """
    largest = P.amax(dim=1, keepdim=True)
    return P.sub_(largest).mul_(a).exp_().sum(dim=1).log_().add_(largest.squeeze(1), alpha=a)


def shares(P: Iterable[Tensor], log_normaliser: Tensor, a: float) -> Iterator[Tensor]:
    """`s(m|x) = softmax_m(a P[x, :])`, block of images after block.

    `P` may hold some of the concepts only: `log_normaliser [I]` is over all of them. The blocks `[B, C]` are
    overwritten, for fresh memory costs as much as the product that fills it.
    """
    first = 0
    for block in P:
        normaliser = log_normaliser[first : first + len(block), None]
        parts = zip(*(torch.split(X, IMAGES_PER_PART) for X in (block, normaliser)), strict=True)
        each(partial(_share, a), parts)
        yield block
        first += len(block)


def _share(a: float, part: tuple[Tensor, Tensor]) -> None:
    products, log_normaliser = part
    products.mul_(a).sub_(log_normaliser).exp_()


def sum_over_top(X: Iterable[Tensor], top: TopImages) -> Tensor:
    """Sums `[N, F]` over each neuron's top images of `X [I, F]`, which comes in blocks of images."""
    rows = top.rows.where(top.values > -torch.inf, -1).T  # [N, K]
    sums: Tensor | None = None
    first = 0
    for block in X:
        here = (rows >= first) & (rows < first + len(block))
        bags = F.embedding_bag(rows[here] - first, block, here.sum(1).cumsum(0) - here.sum(1), mode="sum")  # [N, F]
        sums = bags if sums is None else sums.add_(bags)
        first += len(block)
    assert sums is not None  # there is an image
    return sums


def membership(num_images: int, p_start: float, p_end: float, variant: Variant = "paper") -> Tensor:
    """`p(x∈B_k)` `[K]` float64 of the top images, most activating first (A.1).

    The paper's last image has `p_end`; the published code's falls one step short of it.
    """
    steps = max(num_images - 1, 1) if variant == "paper" else num_images
    return p_start - torch.arange(num_images, dtype=torch.float64) / steps * (p_start - p_end)


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
