"""Draws the world, trains the sample's CLIP and convnet on it, and says how good they are.

`python -m tasks.sample.train [--out DIR]` needs only a CPU; with two cores to itself it takes about ten
minutes. Weights differ in their last digits from machine to machine, the drawings do not.
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
from tasks.sample.network import SampleNet, normalised
from tasks.sample.shapes import SHAPES
from tasks.sample.world import PER_BLOCK, Scene, Split, draw, scene

_log = logging.getLogger(__name__)


def drawings(num_images: int, split: Split) -> tuple[Tensor, list[Scene]]:
    """Draw the first scenes of a split: pixels, uint8 [I, 64, 64, 3], and what they show."""
    scenes = [scene(index, split) for index in range(num_images)]
    return torch.stack([torch.from_numpy(draw(of)) for of in scenes]), scenes


def train_network(
    pixels: Tensor,
    scenes: Sequence[Scene],
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> SampleNet:
    """Train the convnet to name shapes and return it in evaluation mode.

    Args:
        pixels: Drawings, uint8 [I, 64, 64, 3].
        scenes: What they show, I of them.
        epochs: Times each drawing is seen.
        batch_size: Drawings a step.
        learning_rate: AdamW's, at the top of a one-cycle schedule.
        seed: Of the first weights and the order of the drawings.
    """
    torch.manual_seed(seed)
    names = list(SHAPES)
    classes = torch.tensor([names.index(of.shape) for of in scenes])  # [I]
    network: nn.Module = SampleNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    batches = len(pixels) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=epochs * batches, pct_start=0.1
    )
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(pixels))[: batches * batch_size].reshape(batches, -1):
            scores = network(normalised(pixels[batch]).permute(0, 3, 1, 2))  # [B, 20]
            loss = F.cross_entropy(scores, classes[batch])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        _log.info("network, epoch %d of %d: loss %.4f", epoch + 1, epochs, total / batches)
    return network.eval()  # type: ignore[return-value]


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
@click.option("--clip-epochs", default=12, show_default=True)
@click.option("--network-epochs", default=6, show_default=True)
def main(out: Path, num_images: int, clip_epochs: int, network_epochs: int) -> None:
    """Draw, train, write, and report."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    _log.setLevel(logging.INFO)
    logging.getLogger("tasks.sample").setLevel(logging.INFO)
    torch.set_num_threads(2)
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    pixels, scenes = drawings(num_images, "train")
    network_file, clip_file = out / CLASSIFIER_WEIGHTS.name, out / CLIP_WEIGHTS.name
    save_halved(train_network(pixels, scenes, epochs=network_epochs), network_file)
    save_halved(train_clip(pixels, scenes, epochs=clip_epochs), clip_file)
    click.echo(f"trained in {(time.monotonic() - started) / 60:.1f} minutes, weights in {out}")
    pixels, scenes = drawings(PER_BLOCK, "probe")
    click.echo(report(pixels, scenes, clip_file, network_file))


if __name__ == "__main__":
    main()
