"""How good the sample's models are, and what a dissection with them says: numbers to compare with the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from tasks.dissection.similarity import soft_wpmi
from tasks.sample import CLASSES, CLIP_CONFIG, CLIP_NAME, CONCEPTS
from tasks.sample.network import normalised, target
from tasks.sample.shapes import SHAPES
from tasks.sample.world import BACKGROUNDS, COLOURS, TEXTURES, Scene

# The words that name each field of a scene, as captions write them.
_PHRASES = {
    "shape": {name: name for name in SHAPES},
    "colour": {name: name for name in COLOURS},
    "texture": {name: name for name in TEXTURES},
    "background": {name: f"{name} background" for name in BACKGROUNDS},
    "background_colour": {name: f"{name} background" for name in COLOURS},
}
_BATCH = 240


def words(path: Path) -> list[str]:
    """Return the lines of a word list."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def load_clip(weights: Path) -> tuple[Any, Any]:
    """Return the sample's CLIP in evaluation mode and its image preprocessing, through open_clip."""
    open_clip.add_model_config(CLIP_CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms(
        CLIP_NAME, pretrained=str(weights), require_pretrained=True
    )
    return model.eval(), preprocess


@torch.no_grad()
def text_embeddings(clip: Any, texts: Sequence[str]) -> Tensor:
    """Return float64 [T, D], normalised."""
    tokens = open_clip.get_tokenizer(CLIP_NAME)(list(texts))
    embeddings: Tensor = clip.encode_text(tokens, normalize=True)
    return embeddings.double()


@torch.no_grad()
def image_embeddings(clip: Any, preprocess: Any, pixels: Tensor) -> Tensor:
    """Return float64 [I, D], normalised, of drawings, uint8 [I, 64, 64, 3]."""
    normalise = preprocess.transforms[-1]  # what comes before it changes nothing at 64 x 64 pixels
    return torch.cat(
        [
            clip.encode_image(normalise(part.permute(0, 3, 1, 2).float() / 255), normalize=True).double()
            for part in torch.split(pixels, _BATCH)
        ]
    )


@torch.no_grad()
def activations(network: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Return each layer's spatial means, float64 [I, N], of drawings, uint8 [I, 64, 64, 3]."""
    found: dict[str, list[Tensor]] = {name: [] for name, _ in network.named_children()}

    def watch(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(
            lambda _module, _inputs, out: found[name].append(out.flatten(2).mean(2) if out.ndim == 4 else out)
        )

    handles = [watch(name, module) for name, module in network.named_children()]
    for part in torch.split(pixels, _BATCH):
        network(normalised(part).permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts).double() for name, parts in found.items()}


def naming_accuracy(clip: Any, images: Tensor, scenes: Sequence[Scene], field: str) -> float:
    """Return the share of scenes whose value of a field is the nearest of that field's phrases."""
    names = list(_PHRASES[field])
    nearest = (images @ text_embeddings(clip, list(_PHRASES[field].values())).T).argmax(dim=1)
    right = [names[i] == getattr(of, field) for i, of in zip(nearest.tolist(), scenes, strict=True)]
    return right.count(True) / len(right)


def kind(concept: str) -> str:
    """Return what a concept speaks of: shape, background, texture, colour, or texture and colour."""
    parts = concept.split()
    if parts[-1] == "background":
        return "background"
    if parts[-1] in SHAPES:
        return "shape"
    if len(parts) == 2:
        return "texture and colour"
    return "texture" if parts[0] in TEXTURES else "colour"


def report(pixels: Tensor, scenes: Sequence[Scene], clip_weights: Path, network_weights: Path) -> str:
    """Return the measurements on probe drawings, uint8 [I, 64, 64, 3], one to a line."""
    concepts, classes = words(CONCEPTS), words(CLASSES)
    network, _ = target(network_weights)
    clip, preprocess = load_clip(clip_weights)
    images = image_embeddings(clip, preprocess, pixels)  # [I, D]
    layers = activations(network, pixels)
    named = [classes[i] == of.shape for i, of in zip(layers["head"].argmax(1).tolist(), scenes, strict=True)]
    lines = [f"network names the shape: {sum(named) / len(named):.1%}"]
    lines += [f"clip names the {field}: {naming_accuracy(clip, images, scenes, field):.1%}" for field in _PHRASES]

    P = images @ text_embeddings(clip, concepts).T  # [I, C]
    lines.append(f"cosines of picture and concept: {P.min():.2f} to {P.max():.2f}, {len(concepts)} concepts")
    shuffled = P[torch.randperm(len(P), generator=torch.Generator().manual_seed(0))]
    for title, rows in (("true", P), ("shuffled", shuffled)):
        similarity = soft_wpmi(rows, layers["head"]).similarity  # [N, C]
        right = [concepts[i] == name for i, name in zip(similarity.argmax(1).tolist(), classes, strict=True)]
        lines.append(f"head neurons labelled with their class, {title} pictures: {sum(right)} of {len(right)}")
    for layer, A in layers.items():
        labels = [concepts[i] for i in soft_wpmi(P, A).similarity.argmax(dim=1).tolist()]
        kinds = [kind(label) for label in labels]
        shares = ", ".join(f"{k} {kinds.count(k) / len(kinds):.0%}" for k in sorted(set(kinds)))
        lines.append(f"{layer} ({len(labels)} neurons): {shares}")
    return "\n".join(lines)
