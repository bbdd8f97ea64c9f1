"""One training loop for all that the sample trains."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)


def fit(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[Tensor, float], Tensor],
    num_images: int,
    *,
    name: str,
    epochs: int,
    learning_rate: float,
    batch_size: int = 128,
) -> None:
    """Minimise a loss with AdamW on a one-cycle schedule; each epoch's mean loss is logged.

    Args:
        parameters: What to train; the matrices among them decay.
        loss_of: Loss of a batch, given its image indices [B] and the share of training that is done.
        num_images: Number of training images.
        name: What the log calls this training.
        epochs: Times each image is seen.
        learning_rate: At the top of the schedule.
        batch_size: Images a step; an incomplete last batch is left out.
    """
    trained = list(parameters)
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    batches = num_images // batch_size
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        total = 0.0
        for step, batch in enumerate(torch.randperm(num_images)[: batches * batch_size].reshape(batches, -1)):
            loss = loss_of(batch, (epoch * batches + step) / steps)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        _log.info("%s, epoch %d of %d: loss %.3f", name, epoch + 1, epochs, total / batches)
