"""Contrastive training of the sample's CLIP on drawings and captions.

It departs from CLIP's recipe in two ways, both forced by so small a world:

- Most captions ("red", "a star") are true of many pictures of a batch, so each caption's target is spread
  evenly over all pictures it is true of, and each picture's over all captions true of it.
- The logit scale is not learned but grows from 4 to its end. Random embeddings at a large scale are very wrong
  with confidence, which is mended fastest by making all embeddings equal: shapes then stay unlearned.
"""

import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.sample import CLIP_CONFIG, CLIP_NAME
from tasks.sample.world import CAPTIONS, Scene, mentions, template

_FIELDS = ("shape", "colour", "texture", "background", "background_colour")
_FIRST_SCALE, _LAST_SCALE = 4.0, 60.0

_log = logging.getLogger(__name__)


def contrastive_loss(images: Tensor, texts: Tensor, true: Tensor, logit_scale: float) -> Tensor:
    """Return CLIP's symmetric cross-entropy, with several right answers.

    Args:
        images: Normalised embeddings [B, D].
        texts: Normalised embeddings [B, D].
        true: Whether caption i is true of picture j, bool [B, B], with a true diagonal.
        logit_scale: Inverse temperature.
    """
    logits = logit_scale * texts @ images.T  # [B, B]
    target = true.to(logits.dtype)
    by_text = F.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
    by_image = F.cross_entropy(logits.T, target.T / target.T.sum(dim=1, keepdim=True))
    return (by_text + by_image) / 2


class Captioner:
    """Draws a caption for each scene of a batch, and says which scenes of the batch it is true of."""

    def __init__(self, scenes: Sequence[Scene], rng: np.random.Generator) -> None:
        self._scenes = scenes
        self._rng = rng
        self._tokens = cache(open_clip.get_tokenizer(CLIP_NAME))
        codes: dict[str, int] = {}
        self._facts = torch.tensor(
            [[codes.setdefault(getattr(of, field), len(codes)) for field in _FIELDS] for of in scenes]
        )  # [I, F]
        self._silent = {t: torch.tensor([field not in mentions(t) for field in _FIELDS]) for t in CAPTIONS}

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens [B, context length], and whether caption i is true of picture j, bool [B, B]."""
        templates = [template(self._rng) for _ in batch]
        texts = [
            chosen.format(**vars(self._scenes[index]))
            for chosen, index in zip(templates, batch.tolist(), strict=True)
        ]
        facts = self._facts[batch]  # [B, F]
        silent = torch.stack([self._silent[chosen] for chosen in templates])  # [B, F]
        true = ((facts[:, None] == facts) | silent[:, None]).all(dim=2)  # [B, B]
        return torch.cat([self._tokens(text) for text in texts]), true


def train_clip(
    pixels: Tensor,
    scenes: Sequence[Scene],
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Any:
    """Train the sample's CLIP from nothing and return it, an `open_clip.CLIP` in evaluation mode.

    Args:
        pixels: Drawings, uint8 [I, 64, 64, 3].
        scenes: What they show, I of them.
        epochs: Times each drawing is seen, each time with another caption.
        batch_size: Pictures, and captions, that are told apart at a time.
        learning_rate: AdamW's, at the top of a one-cycle schedule.
        seed: Of the first weights, the order of the drawings and the captions.
    """
    torch.manual_seed(seed)
    open_clip.add_model_config(CLIP_CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms(CLIP_NAME)
    normalise = preprocess.transforms[-1]
    model = model.to(memory_format=torch.channels_last).train()
    captions = Captioner(scenes, np.random.default_rng(seed))

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate)
    batches = len(pixels) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=epochs * batches, pct_start=0.1
    )
    for epoch in range(epochs):
        total = 0.0
        for step, batch in enumerate(torch.randperm(len(pixels))[: batches * batch_size].reshape(batches, -1)):
            done = (epoch + step / batches) / epochs
            scale = _FIRST_SCALE * (_LAST_SCALE / _FIRST_SCALE) ** done
            tokens, true = captions(batch)
            images = normalise(pixels[batch].permute(0, 3, 1, 2).float() / 255)  # [B, 3, 64, 64]
            loss = contrastive_loss(
                model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True), true, scale
            )
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        _log.info("clip, epoch %d of %d: loss %.3f", epoch + 1, epochs, total / batches)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(_LAST_SCALE))
    return model.eval()
