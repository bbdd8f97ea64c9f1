"""Draws the world, trains the sample's CLIP and convnet on it, and says how good they are.

`python -m tasks.sample.train [--out DIR]` needs only a CPU; the shipped weights took 8.4 minutes of one core
(`--num-threads 1`). Weights differ in their last digits from machine to machine, the drawings do not.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.sample import CLASSIFIER_WEIGHTS, CLIP_WEIGHTS
from tasks.sample.contrast import train_clip
from tasks.sample.evaluate import report
from tasks.sample.fit import fit
from tasks.sample.network import SampleNet, normalised
from tasks.sample.shapes import SHAPES
from tasks.sample.world import PER_BLOCK, Scene, Split, draw, scene


def drawings(num_images: int, split: Split) -> tuple[Tensor, list[Scene]]:
    """Draw the first scenes of a split: pixels, uint8 [I, 64, 64, 3], and what they show."""
    scenes = [scene(index, split) for index in range(num_images)]
    return torch.stack([torch.from_numpy(draw(of)) for of in scenes]), scenes


def train_network(pixels: Tensor, scenes: Sequence[Scene], *, epochs: int, seed: int = 0) -> SampleNet:
    """Train the convnet to name shapes and return it in evaluation mode.

    Args:
        pixels: Drawings, uint8 [I, 64, 64, 3].
        scenes: What they show, I of them.
        epochs: Times each drawing is seen.
        seed: Of the first weights and the order of the drawings.
    """
    torch.manual_seed(seed)
    names = list(SHAPES)
    classes = torch.tensor([names.index(of.shape) for of in scenes])  # [I]
    network = SampleNet()
    network.to(memory_format=torch.channels_last)

    def loss(batch: Tensor, _done: float) -> Tensor:
        return F.cross_entropy(network(normalised(pixels[batch]).permute(0, 3, 1, 2)), classes[batch])

    fit(network.parameters(), loss, len(pixels), name="network", epochs=epochs, learning_rate=4e-3)
    return network.eval()


def save_halved(model: nn.Module, path: Path) -> None:
    """Write a model's state, its floats as float16, aside and then in place."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    partial = path.with_name(path.name + ".partial")
    save_file(state, partial)
    partial.replace(path)


@click.command(help="Train the sample's two models from nothing and write their weights.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=CLIP_WEIGHTS.parent)
@click.option("--num-images", default=10 * PER_BLOCK, show_default=True, help="Training drawings.")
@click.option("--naming-epochs", default=4, show_default=True)
@click.option("--clip-epochs", default=7, show_default=True)
@click.option("--network-epochs", default=4, show_default=True)
@click.option("--num-threads", default=2, show_default=True, help="More than the idle cores is slower than one.")
def main(
    out: Path, num_images: int, naming_epochs: int, clip_epochs: int, network_epochs: int, num_threads: int
) -> None:
    """Draw, train, write, and report."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("tasks.sample").setLevel(logging.INFO)
    torch.set_num_threads(num_threads)
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    pixels, scenes = drawings(num_images, "train")
    network_file, clip_file = out / CLASSIFIER_WEIGHTS.name, out / CLIP_WEIGHTS.name
    save_halved(train_network(pixels, scenes, epochs=network_epochs), network_file)
    clip = train_clip(pixels, scenes, naming_epochs=naming_epochs, epochs=clip_epochs)
    save_halved(clip, clip_file)
    click.echo(f"trained in {(time.monotonic() - started) / 60:.1f} minutes, weights in {out}")
    pixels, scenes = drawings(PER_BLOCK, "probe")
    click.echo(report(pixels, scenes, clip_file, network_file))


if __name__ == "__main__":
    main()
