"""Training of the sample's CLIP on drawings and captions.

It departs from CLIP's recipe in three ways, all forced by so small a world and so little time:

- The image tower first learns to name the five properties of a scene. From nothing, a contrastive loss sees
  colours at once and shapes hardly at all: a colour is told by any pixel, a shape only by many together.
- Most captions ("red", "a star") are true of many pictures of a batch, so each caption's target is spread
  evenly over all pictures it is true of, and each picture's over all captions true of it.
- The logit scale is not learned but grows to 100, where CLIP's ends too, and starts at 40. A small scale asks
  for wide differences of cosines, which SoftWPMI then turns into certainties: at a = 10 many concepts would
  reach the score's upper bound, log N, together. Cosines here end within about -0.2 and 0.3, like CLIP's.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.sample import CLIP_CONFIG, CLIP_NAME
from tasks.sample.fit import fit
from tasks.sample.world import CAPTIONS, Scene, mentions, template

FIELDS = ("shape", "colour", "texture", "background", "background_colour")
_FIRST_SCALE, _LAST_SCALE = 40.0, 100.0


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


def facts(scenes: Sequence[Scene]) -> Tensor:
    """Return each scene's value of each of `FIELDS` as a number that counts from 0, int64 [I, 5]."""
    values = {field: sorted({getattr(of, field) for of in scenes}) for field in FIELDS}
    return torch.tensor([[values[field].index(getattr(of, field)) for field in FIELDS] for of in scenes])


class Captioner:
    """Draws a caption for each scene of a batch, and says which scenes of the batch it is true of."""

    def __init__(self, scenes: Sequence[Scene], rng: np.random.Generator) -> None:
        self._scenes = scenes
        self._rng = rng
        self._tokens = cache(open_clip.get_tokenizer(CLIP_NAME))
        self._facts = facts(scenes)  # [I, F]
        self._silent = {t: torch.tensor([field not in mentions(t) for field in FIELDS]) for t in CAPTIONS}

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens [B, context length], and whether caption i is true of picture j, bool [B, B]."""
        templates = [template(self._rng) for _ in batch]
        texts = [
            chosen.format(**vars(self._scenes[index]))
            for chosen, index in zip(templates, batch.tolist(), strict=True)
        ]
        known = self._facts[batch]  # [B, F]
        silent = torch.stack([self._silent[chosen] for chosen in templates])  # [B, F]
        true = ((known[:, None] == known) | silent[:, None]).all(dim=2)  # [B, B]
        return torch.cat([self._tokens(text) for text in texts]), true


def train_clip(pixels: Tensor, scenes: Sequence[Scene], *, naming_epochs: int, epochs: int, seed: int = 0) -> Any:
    """Train the sample's CLIP from nothing and return it, an `open_clip.CLIP` in evaluation mode.

    Args:
        pixels: Drawings, uint8 [I, 64, 64, 3].
        scenes: What they show, I of them.
        naming_epochs: Times the image tower alone sees each drawing.
        epochs: Times both towers see each drawing, each time with another caption.
        seed: Of the first weights, the order of the drawings and the captions.
    """
    torch.manual_seed(seed)
    open_clip.add_model_config(CLIP_CONFIG)
    clip, _, preprocess = open_clip.create_model_and_transforms(CLIP_NAME)
    normalise = preprocess.transforms[-1]
    clip = clip.to(memory_format=torch.channels_last).train()

    def images(batch: Tensor) -> Tensor:
        pictures: Tensor = normalise(pixels[batch].permute(0, 3, 1, 2).float() / 255)
        return pictures  # [B, 3, 64, 64]

    known = facts(scenes)  # [I, F]
    sizes = (known.max(dim=0).values + 1).tolist()
    heads = nn.Linear(clip.visual.output_dim, sum(sizes))

    def naming(batch: Tensor, _done: float) -> Tensor:
        scores = torch.split(heads(clip.encode_image(images(batch))), sizes, dim=1)
        losses = [F.cross_entropy(s, right) for s, right in zip(scores, known[batch].T, strict=True)]
        return torch.stack(losses).sum()

    captions = Captioner(scenes, np.random.default_rng(seed))

    def contrast(batch: Tensor, done: float) -> Tensor:
        tokens, true = captions(batch)
        embedded = clip.encode_image(images(batch), normalize=True), clip.encode_text(tokens, normalize=True)
        return contrastive_loss(*embedded, true, _FIRST_SCALE * (_LAST_SCALE / _FIRST_SCALE) ** done)

    named = [*clip.visual.parameters(), *heads.parameters()]
    fit(named, naming, len(pixels), name="image tower", epochs=naming_epochs, learning_rate=3e-3)
    fit(clip.parameters(), contrast, len(pixels), name="clip", epochs=epochs, learning_rate=1.5e-3)
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(_LAST_SCALE))
    return clip.eval()
