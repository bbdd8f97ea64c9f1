"""Spaces in which a label and a true name are compared: CLIP's of texts, and one of sentences (paper Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from tasks.concepts import embed_texts
from tasks.models.clip import PlacedClip, load_clip
from tasks.models.devices import Placement
from tasks.models.downloads import downloading
from tasks.models.errors import ModelError

Floats = npt.NDArray[np.float64]
#: Texts into unit embeddings `[T, D]`.
Encoder = Callable[[list[str]], npt.NDArray[np.float32]]


def clip_encoder(name: str, checkpoint: str | None) -> Encoder:
    """The text encoder of a CLIP model, on the CPU. Raises `ModelError`."""
    clip = PlacedClip(load_clip(name, checkpoint), Placement(torch.device("cpu")))
    return lambda texts: embed_texts(clip, texts)


def sentence_encoder(name: str) -> Encoder:
    """A model of the package sentence-transformers by its name, or from a folder, on the CPU. Raises `ModelError`."""
    try:
        from sentence_transformers import SentenceTransformer  # in here: an extra, and seconds to import
    except ImportError as error:
        raise ModelError(
            "--sentence-model needs the package sentence-transformers: pip install -e '.[evaluate]' in the folder of "
            "this project."
        ) from error
    with downloading(f"sentence model {name}", "--sentence-model FOLDER"):
        model = SentenceTransformer(name, device="cpu")

    def encode(texts: list[str]) -> npt.NDArray[np.float32]:
        return np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False), dtype=np.float32)

    return encode


def cosines(labels: Sequence[str], names: Sequence[Sequence[str]], encode: Encoder) -> Floats:
    """Cosine of each label and its true name, `[U]`; of several names, of the nearest (paper section 4.2 a).

    The bare texts are embedded, each once.
    """
    texts = list(dict.fromkeys([*labels, *(name for true in names for name in true)]))
    row = {text: i for i, text in enumerate(texts)}
    embeddings = encode(texts).astype(np.float64)  # [T, D]
    return np.array(
        [
            max(float(embeddings[row[label]] @ embeddings[row[name]]) for name in true)
            for label, true in zip(labels, names, strict=True)
        ]
    )
