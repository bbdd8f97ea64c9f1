"""From images on disk to embeddings and activations: how near the pass comes to what limits it.

    python -m tests.benchmarks.probing [--runs 5] [--model-images 256] [--decode-images 512]

model_bound_efficiency: the bare forward loop over preloaded tensors (CLIP ViT-B-32 and ResNet-50, random weights,
500 x 375 JPEGs), over the pass. speedup_by_batch_size: the pass with --batch-size 64, over the pass.
decode_bound_efficiency: bare decoding and preprocessing on all cores from bytes in memory (1600 x 1200 JPEGs,
networks that cost next to nothing), over the pass. speedup_over_published: two passes as the published code makes
them (ImageFolder, DataLoader, hooks, torch.save) on the same files, over the pass; speedup_with_draft: over the
pass with --draft 448, whose results differ a little. Each is the median of pairs in one run, and the pass is what a
run's tasks do, two at a time, with its writing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from storage.completion import Rows
from storage.shards import read_images
from tasks.dissection.hooks import recorded
from tasks.images import decode
from tasks.models.clip import load_clip
from tasks.models.devices import PIXELS_PER_PASS
from tasks.models.targets import load_target
from tasks.observation import plan_observation, recordings_of
from tasks.observe import observe
from tasks.shard import ProbeRef, finish_probe, make_shards, plan_shards
from tasks.spec import DissectSpec
from tests.benchmarks.reduction import seconds

#: A CLIP model that costs next to nothing beside decoding.
SMALL_CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 56, "head_width": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
CORES = os.cpu_count() or 1
#: Of the bare forward loop, which is at its fastest with it.
BATCH = PIXELS_PER_PASS // 224**2


def draw(folder: Path, number: int, size: tuple[int, int]) -> None:
    """Photograph-like JPEGs: smooth noise of several scales."""
    rng = np.random.default_rng(0)
    (folder / "all").mkdir(parents=True)
    width, height = size
    for i in range(number):
        pixels = np.zeros((height, width, 3))
        for cell in (4, 16, 64):
            noise = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
            pixels += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)) / 3
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "all" / f"{i:05d}.jpg", quality=90)


def clip_files(folder: Path, name: str, config: dict[str, Any] | None) -> dict[str, str]:
    """A CLIP model with random weights, as a run is given one."""
    if config:
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    weights = folder / f"{name}.safetensors"
    torch.manual_seed(0)
    save_file({key: value.contiguous() for key, value in open_clip.create_model(name).state_dict().items()}, weights)
    return {"clip": str(folder / f"{name}.json") if config else name, "clip_checkpoint": str(weights)}


def sharded(spec: DissectSpec) -> ProbeRef:
    """The probe set of a spec."""
    plan = plan_shards(spec)
    for work in plan.work:
        make_shards.fn(plan.packing, work)
    return finish_probe.fn(plan)


def whole_pass(spec: DissectSpec, probe: ProbeRef) -> None:
    """What the tasks of a run do, with nothing stored before."""
    for kind in ("embeddings", "activations"):
        shutil.rmtree(Path(spec.store) / kind, ignore_errors=True)
    plan = plan_observation(probe, spec, spec)
    with ThreadPoolExecutor(2) as tasks:
        list(tasks.map(lambda work: observe.fn(plan, work), plan.work))


def bytes_of(probe: ProbeRef) -> list[bytes]:
    """The files of a probe set, in memory."""
    return [data for _, data in read_images(probe.folder, probe.rows(Rows(0, probe.num_images)))]


def preprocessed(spec: DissectSpec, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """An image as both models take it."""
    assert spec.clip is not None
    image = decode(data)
    clip, target = load_clip(spec.clip, spec.clip_checkpoint), load_target(*spec.network)
    return clip.preprocess(image), target.preprocess(image)


def decode_all(spec: DissectSpec, files: list[bytes]) -> None:
    """Bare decoding and preprocessing, on all cores."""
    with ThreadPoolExecutor(CORES) as pool:
        for _ in pool.map(lambda data: preprocessed(spec, data), files):
            pass


@torch.inference_mode()
def forward_all(spec: DissectSpec, probe: ProbeRef, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The bare forward loop, with the hooks that record."""
    assert spec.clip is not None
    clip, target = load_clip(spec.clip, spec.clip_checkpoint), load_target(*spec.network)
    [recording] = recordings_of(probe, spec).values()
    with recorded(target.model, recording.layouts, recording.summary):
        for for_clip, for_target in batches:
            clip.model.encode_image(for_clip)
            target.model(for_target)


@torch.inference_mode()
def published_passes(spec: DissectSpec, images: Path, out: Path, batch_size: int = 200) -> None:
    """A pass for the embeddings and a pass for the activations, each of which decodes all images."""
    assert spec.clip is not None
    clip, target = load_clip(spec.clip, spec.clip_checkpoint), load_target(*spec.network)
    embeddings = [clip.model.encode_image(batch).cpu() for batch, _ in loader(images, clip.preprocess, batch_size)]
    torch.save(torch.cat(embeddings), out / "clip.pt")
    kept: dict[str, list[torch.Tensor]] = {layer: [] for layer in spec.layers}

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            kept[layer].append(output.mean(dim=[2, 3]) if output.ndim == 4 else output)

        return hook

    hooks = [target.model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in spec.layers]
    for batch, _ in loader(images, target.preprocess, batch_size):
        target.model(batch)
    for layer, hook in zip(kept, hooks, strict=True):
        torch.save(torch.cat(kept[layer]), out / f"{layer}.pt")
        hook.remove()


def loader(images: Path, preprocess: Any, batch_size: int) -> Any:
    """As the published code loads images, with a worker for each core."""
    return DataLoader(ImageFolder(str(images), preprocess), batch_size, num_workers=CORES)


def median_ratio(baseline: Callable[[], Any], ours: Callable[[], Any], runs: int) -> tuple[float, float, float]:
    """Median of baseline over ours, pair by pair, and the median seconds of each."""
    ours()
    pairs = [(seconds(baseline), seconds(ours)) for _ in range(runs)]
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("runs", 5), ("model-images", 256), ("decode-images", 512)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def told(what: str, baseline: str, number: int, found: tuple[float, float, float]) -> None:
            figures[what] = round(found[0], 3)
            theirs, ours = (f"{number / duration:7.1f}/s" for duration in found[1:])
            print(f"{what:<24} {baseline} {theirs}, ours {ours}   {found[0]:.3f}", flush=True)

        draw(folder / "small", given.model_images, (500, 375))
        spec = DissectSpec(
            store=str(folder / "store"),
            probe=str(folder / "small"),
            target="torchvision:resnet50/random",
            layers=("layer1", "layer2", "layer3", "layer4"),
            concepts="sample",
            **clip_files(folder, "ViT-B-32", None),
        )
        probe = sharded(spec)
        inputs = [preprocessed(spec, data) for data in bytes_of(probe)]
        batches = [
            (torch.stack([one for one, _ in part]), torch.stack([other for _, other in part]))
            for part in (inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH))
        ]
        found = median_ratio(lambda: forward_all(spec, probe, batches), lambda: whole_pass(spec, probe), given.runs)
        told("model_bound_efficiency", "forward alone", given.model_images, found)
        of_64 = spec.model_copy(update={"batch_size": 64})
        found = median_ratio(lambda: whole_pass(of_64, probe), lambda: whole_pass(spec, probe), given.runs)
        told("speedup_by_batch_size", "64 at a time", given.model_images, found)

        draw(folder / "large", given.decode_images, (1600, 1200))
        light = DissectSpec(
            store=str(folder / "store"),
            probe=str(folder / "large"),
            target="tests.tiny_models:light",
            layers=("conv",),
            concepts="sample",
            **clip_files(folder, "small-clip", SMALL_CLIP),
        )
        large = sharded(light)
        files = bytes_of(large)
        found = median_ratio(lambda: decode_all(light, files), lambda: whole_pass(light, large), given.runs)
        told("decode_bound_efficiency", "decoding alone", given.decode_images, found)
        found = median_ratio(
            lambda: published_passes(light, folder / "large", folder), lambda: whole_pass(light, large), given.runs
        )
        told("speedup_over_published", "published", given.decode_images, found)
        drafted = light.model_copy(update={"draft": 448})
        found = median_ratio(
            lambda: published_passes(light, folder / "large", folder), lambda: whole_pass(drafted, large), given.runs
        )
        told("speedup_with_draft", "published", given.decode_images, found)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
