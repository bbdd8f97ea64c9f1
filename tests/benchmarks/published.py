"""A plain implementation of the published algorithm: whole `P` and softmax in memory, then neuron by neuron.

What the benchmark of the reduction compares with. Float32, on the processor; written from the paper's equations and
the notes on the published code, with its epsilons.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7


def softmax_rows(images: Tensor, concepts: Tensor, a: float) -> Tensor:
    """`s(m|x)` `[I, C]`."""
    return torch.softmax(a * (images @ concepts.T), dim=1)


def soft_wpmi_scores(s: Tensor, top: Tensor, p_start: float = 0.998, p_end: float = 0.97) -> Tensor:
    """`[N, C]` from softmax rows and top images `[K, N]`: gather and logarithms, one neuron after the other."""
    num_images = len(top)
    p = (p_start - torch.arange(num_images) / num_images * (p_start - p_end))[:, None]
    likelihood = []
    for k in range(top.shape[1]):
        of_top = s.gather(0, top[:, k : k + 1].expand(-1, s.shape[1]))  # [K, C]
        likelihood.append(torch.sum(torch.log(1 + p * (of_top - 1) + EPSILON), dim=0, keepdim=True))
    return minus_prior(torch.cat(likelihood), 1.0)


def wpmi_scores(s: Tensor, top: Tensor) -> Tensor:
    """`[N, C]` from softmax rows and top images `[K, N]`."""
    likelihood = []
    for k in range(top.shape[1]):
        of_top = s.gather(0, top[:, k : k + 1].expand(-1, s.shape[1]))  # [K, C]
        likelihood.append(torch.sum(torch.log(of_top + EPSILON), dim=0, keepdim=True))
    return minus_prior(torch.cat(likelihood), 0.6)


def minus_prior(likelihood: Tensor, lam: float) -> Tensor:
    """Likelihood less λ times the prior over the neurons."""
    prior = torch.logsumexp(likelihood, dim=0, keepdim=True) - torch.log(torch.tensor(float(len(likelihood))))
    return likelihood - lam * prior


def soft_wpmi(images: Tensor, concepts: Tensor, activations: Tensor) -> Tensor:
    """First labels `[N]` from embeddings and activations."""
    top = torch.topk(activations, 100, dim=0)[1]
    return soft_wpmi_scores(softmax_rows(images, concepts, 10.0), top).argmax(1)


def wpmi(images: Tensor, concepts: Tensor, activations: Tensor) -> Tensor:
    """First labels `[N]` from embeddings and activations."""
    return wpmi_scores(softmax_rows(images, concepts, 2.0), torch.topk(activations, 28, dim=0)[1]).argmax(1)


def cos(images: Tensor, concepts: Tensor, activations: Tensor) -> Tensor:
    """First labels `[N]` from embeddings and activations."""
    P = images @ concepts.T
    return ((activations / activations.norm(dim=0)).T @ (P / P.norm(dim=0))).argmax(1)


def rank_reorder(images: Tensor, concepts: Tensor, activations: Tensor) -> Tensor:
    """First labels `[N]` from embeddings and activations, over the top 5 % of the images."""
    P = images @ concepts.T
    values, rows = torch.topk(activations, int(len(activations) * 0.05), dim=0)
    labels = []
    for k in range(activations.shape[1]):
        of_top = P.gather(0, rows[:, k : k + 1].expand(-1, P.shape[1]))  # [K, C]
        ranks = torch.argsort(torch.argsort(of_top, dim=0), dim=0)
        rising = torch.flip(values[:, k], dims=[0])
        error = (rising[ranks] - values[:, k : k + 1]).abs().pow(3)
        labels.append(error.mean(0).argmin())
    return torch.stack(labels)


SIMILARITIES = {"soft_wpmi": soft_wpmi, "wpmi": wpmi, "cos": cos, "rank_reorder": rank_reorder}
