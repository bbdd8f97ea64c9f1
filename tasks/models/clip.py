"""CLIP models by open_clip: what a user writes for `--clip`."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.dissection.errors import UnknownNameError
from tasks.models.batches import Batches, Timed
from tasks.models.checkpoints import load_into, loading, read_checkpoint
from tasks.models.choosing import Checkpoint
from tasks.models.devices import Placement
from tasks.models.downloads import downloading
from tasks.models.errors import CheckpointError, DownloadError, ModelError, first_lines
from tasks.models.preprocess import Preprocess, describe
from tasks.models.weight_files import is_script_file
from tasks.models.weights_digest import digest_of_weights

#: Architectures that are read from a folder or from the Hugging Face Hub.
ELSEWHERE = ("local-dir:", "hf-hub:")
#: Packages of the tokenizers that open_clip does not bring itself.
INSTALL_TRANSFORMERS = "pip install -e '.[transformers]'"


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP model on the CPU, in float32 and evaluation mode."""

    name: str
    model: Any
    preprocess: Preprocess
    tokenize: Any
    #: What its embeddings depend on: weights, architecture, preprocessing.
    identity: dict[str, str]
    #: What was chosen of its weights without being asked, and converted.
    notes: tuple[str, ...] = ()


class PlacedClip:
    """A CLIP model ready to embed on a device that the caller holds. Texts are embedded in float32 everywhere."""

    def __init__(self, clip: Clip, placement: Placement) -> None:
        self._source, self._placement = clip, placement
        self._model: Any = Placement(placement.device).place(clip.model)
        if placement != Placement(placement.device):
            self._model = copy.copy(self._model)
            self._model._modules = self._model._modules | {"visual": placement.place(clip.model.visual)}
        encode: Callable[[Tensor], Tensor] = self._model.encode_image
        self._encode_image = torch.compile(encode) if placement.compile else encode
        self._batches = Batches(f"CLIP model {clip.name}", placement)
        self._tokenizing = Lock()

    def stands_for(self, source: Clip, placement: Placement) -> bool:
        """Whether it is just this."""
        return source is self._source and placement == self._placement

    def embed_images(self, images: Tensor, batch_size: int, timed: Timed = nullcontext) -> Callable[[], Tensor]:
        """Begins to embed preprocessed images `[I, 3, H, W]`, by batches; returns a function that waits for it.

        That gives unit embeddings `[I, D]` float32, on the CPU. Each forward pass is made inside `timed()`.
        """

        def forward(batch: Tensor) -> dict[str, Tensor]:
            features = self._encode_image(self._placement.inputs(batch))
            return {"embeddings": F.normalize(features.float(), dim=1)}

        finish = self._batches.start(forward, images, batch_size, timed)
        return lambda: finish()["embeddings"]

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings `[B, D]` float32, on the CPU, of texts. Threads may call it at the same time."""
        with self._tokenizing:  # those of transformers fail where two threads call one
            tokens = self._source.tokenize(texts).to(self._placement.device)
        return F.normalize(self._model.encode_text(tokens).float(), dim=1).cpu()


@cache
def load_clip(name: str, checkpoint: str | None) -> Clip:
    """Loads a CLIP model once per process. Raises `ModelError`."""

    model, preprocess, notes = create_clip(name, checkpoint)
    model = model.eval().requires_grad_(False)
    identity = {"clip": _configuration(name), "weights": digest_of_weights(model), "preprocess": describe(preprocess)}
    return Clip(name, model, preprocess, _tokenizer(_architecture(name)), identity, notes)


def num_dimensions(clip: Clip) -> int:
    """`D`, the length of a model's embeddings."""
    return PlacedClip(clip, Placement(torch.device("cpu"))).embed_texts(["a"]).shape[1]


def _configuration(name: str) -> str:
    """What the weights do not say, as the number of heads: the architecture's configuration, for one's own name."""
    import open_clip

    config = open_clip.get_model_config(_architecture(name))
    return json.dumps(config, sort_keys=True) if config else _architecture(name)


def create_clip(
    name: str, checkpoint: str | None, key: str | None = None, prefix: str | None = None
) -> tuple[Any, Preprocess, tuple[str, ...]]:
    """The model and its preprocessing for `NAME/PRETRAINED`, `NAME` with a checkpoint, a config, `sample`.

    `key` and `prefix` say where in the checkpoint the weights are. With what was chosen without being asked.
    """
    import open_clip

    architecture, pretrained = _architecture(name), name.partition("/")[2] or None
    if name == "sample":
        from tasks import sample

        open_clip.add_model_config(sample.CLIP_CONFIG)
        pretrained = str(sample.CLIP_WEIGHTS)
    elif name.endswith(".json"):
        if not Path(name).is_file():
            raise ModelError(f"There is no model config {name}.")
        try:
            whole = {"embed_dim", "vision_cfg", "text_cfg"} <= set(json.loads(Path(name).read_text()))
        except (ValueError, TypeError):
            whole = False
        if not whole:  # open_clip would skip it, or stumble over it whenever another is added
            raise ModelError(f"{name} is no model config: JSON with embed_dim, vision_cfg and text_cfg.")
        open_clip.add_model_config(Path(name))
        pretrained = None
    elif architecture.startswith(ELSEWHERE):
        pretrained = None
    elif architecture not in open_clip.list_models():
        way_out = "`open_clip.list_models()` lists them."
        raise UnknownNameError.of("CLIP model", architecture, open_clip.list_models(), way_out)
    if checkpoint:
        if not Path(checkpoint).is_file():
            raise CheckpointError(f"There is no CLIP checkpoint file {checkpoint}.")
        pretrained = checkpoint
    _refuse_untrained(architecture, pretrained)
    if pretrained and "/" in name and not checkpoint:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if pretrained not in tags and not Path(pretrained).is_file() and architecture in open_clip.list_models():
            raise ModelError(f"{architecture} has no weights {pretrained!r}, but {', '.join(tags)}.")
    if pretrained and Path(pretrained).is_file():
        return _with_weights_of(architecture, pretrained, key, prefix)
    with downloading(f"CLIP model {name}", "--clip NAME --clip-checkpoint FILE"):
        return *_create(architecture, pretrained), ()


def _with_weights_of(
    architecture: str, file: str, key: str | None, prefix: str | None
) -> tuple[Any, Preprocess, tuple[str, ...]]:
    """A model with the weights of a file of this machine.

    open_clip reads the files that its training writes, and converts those of others that it knows. Of an architecture
    from elsewhere it would read the weights there, and leave out this file without a word.
    """
    is_ours = key or prefix or file.endswith(".index.json") or architecture.startswith(ELSEWHERE)
    if not is_ours and not is_script_file(file):
        try:
            return *_create(architecture, file), ()
        except Exception as error:  # as for a checkpoint of a target, torn and foreign files give any kind
            if file.endswith((".npz", ".npy")):
                raise CheckpointError(f"{file} does not fit {architecture}: {first_lines(error)}.") from error
    # TorchScript (OpenAI's files), and weights under other keys and names; else this says what does not fit.
    checkpoint = read_checkpoint(file, key, prefix)
    model, preprocess = _untrained(architecture)
    _refuse_other_activation(architecture, model, checkpoint)
    return model, preprocess, load_into(model, checkpoint)


def _refuse_other_activation(architecture: str, model: Any, checkpoint: Checkpoint) -> None:
    """OpenAI's weights were trained with QuickGELU, which they fit as well as another activation."""
    import open_clip

    is_openai = any(candidate.is_openai for candidate in checkpoint.candidates())
    if not is_openai or any(type(module).__name__ == "QuickGELU" for module in model.modules()):
        return
    other = f"{architecture}-quickgelu"
    way_out = f"Name {other}." if other in open_clip.list_models() else 'Add "quick_gelu": true to its config.'
    raise CheckpointError(
        f"{checkpoint.path} holds weights of OpenAI, which were trained with the activation QuickGELU, and "
        f"{architecture} has another: its embeddings would be wrong. {way_out}"
    )


def _refuse_untrained(architecture: str, pretrained: str | None) -> None:
    """open_clip would give random weights and only warn."""
    import open_clip

    if pretrained or architecture.startswith(ELSEWHERE):
        return
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    raise ModelError(
        f"CLIP model {architecture} needs weights: --clip {architecture}/{tags[0] if tags else 'PRETRAINED'}"
        f"{f' (or {chr(44).join(tags[1:6])})' if tags[1:] else ''}, or --clip-checkpoint FILE "
        "(where it is the target, --checkpoint FILE)."
    )


def _create(architecture: str, pretrained: str | None) -> tuple[Any, Preprocess]:
    import open_clip

    with loading():
        model, _, preprocess = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained, require_pretrained=True
        )
    return model, preprocess


def _untrained(architecture: str) -> tuple[Any, Preprocess]:
    """A model whose weights are to be loaded."""
    import open_clip

    root = logging.getLogger()
    root.addFilter(_is_no_word_of_random_weights)
    try:
        with loading(), downloading(f"CLIP model {architecture}", "--clip NAME --clip-checkpoint FILE"):
            model, _, preprocess = open_clip.create_model_and_transforms(
                architecture, load_weights=False, pretrained_text=False
            )
    finally:
        root.removeFilter(_is_no_word_of_random_weights)
    return model, preprocess


def _is_no_word_of_random_weights(record: logging.LogRecord) -> bool:
    return "No pretrained weights loaded" not in record.getMessage()


def _tokenizer(architecture: str) -> Any:
    """The tokenizer of a model. Raises `ModelError` where its package or its files are not there."""
    try:
        return _made_tokenizer(architecture)
    except ImportError as error:
        raise ModelError(
            f"The tokenizer of CLIP model {architecture} needs a package that is not installed "
            f"({first_lines(error)}). Install "
            "what tokenizers of transformers need, in the folder of this project: "
            f"{INSTALL_TRANSFORMERS}"
        ) from error
    except Exception as error:  # of transformers, huggingface_hub and their parsers
        named = _tokenizer_name(architecture)
        raise DownloadError(
            f"The tokenizer {named} of CLIP model {architecture} is not on this machine and could not be fetched, or "
            f"cannot be read ({first_lines(error)}). Without a network: fetch it on another machine (hf download "
            f"{named} --local-dir FOLDER), copy the folder here, and name it as hf_tokenizer_name in a model config "
            "(--clip CONFIG.json). (HF_HUB_OFFLINE=1 spares the wait.)"
        ) from error


def _tokenizer_name(architecture: str) -> str:
    import open_clip

    config = open_clip.get_model_config(architecture) or {}
    return str(config.get("text_cfg", {}).get("hf_tokenizer_name") or architecture)


def _made_tokenizer(architecture: str) -> Any:
    # Its configuration may name a tokenizer of transformers, and ask to run the code beside it.
    import open_clip

    try:
        return open_clip.get_tokenizer(architecture, trust_remote_code=False)
    except TypeError:  # open_clip's own tokenizer, which runs none and knows no such word
        return open_clip.get_tokenizer(architecture)


def _architecture(name: str) -> str:
    if name == "sample":
        from tasks import sample

        return sample.CLIP_CONFIG.stem
    if name.endswith(".json"):
        return Path(name).stem
    if name.startswith(ELSEWHERE):
        return name
    return name.partition("/")[0]
