"""A store with every kind of file in it, and the runs that made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.files import Folder
from storage.layout import Store
from tasks.label import find_top_images, score_block, sum_softmax
from tasks.labelling import plan_labels
from tasks.publish import PublishPlan, plan_publication, publish
from tasks.remember import remember
from tasks.spec import DissectSpec
from tests.conftest import draw_images
from tests.test_storage.test_broden import broden_at
from tests.test_storage.test_tars import tar
from tests.test_tasks.conftest import detailed, labelled, make_clip, png, shard


@dataclass(frozen=True)
class Filled:
    """A folder with the inputs of runs, their store, and what they published elsewhere."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def tar(self) -> Path:
        return self.folder / "tars" / "x.tar"

    def spec(self, **changes: Any) -> DissectSpec:
        folder = self.folder
        parameters: dict[str, Any] = {
            "store": str(self.store),
            "out": str(self.out),
            "device": "cpu",
            "batch_size": 16,
            "probe": (str(folder / "images"), str(self.tar), str(folder / "broden")),
            "images_per_shard": 30,
            "clip": str(folder / "clip" / "tiny-test-clip.json"),
            "clip_checkpoint": str(folder / "clip" / "tiny.safetensors"),
            "concepts": str(folder / "concepts.txt"),
            "target": "tests.tiny_models:colours",
            "layers": ("conv", "head"),
            "top_k": 5,
            "ranks": 4,
            "keep_similarities": True,
        }
        return DissectSpec(**parameters | changes)

    def runs(self) -> list[PublishPlan]:
        """Published elsewhere, and in the store."""
        return [run(self.spec()), run(self.spec(out=None, top_images=3))]


def run(spec: DissectSpec) -> PublishPlan:
    """What the flow `dissect` does; only what is missing is done."""
    labels = labelled(spec)
    plan = plan_publication(labels, spec, detailed(labels.probe, spec))
    remember(plan)
    if not plan.is_done:
        publish.fn(plan)
    return plan


def fill(folder: Path) -> Filled:
    """Every kind of file that a store may have."""
    filled = Filled(folder)
    draw_images(folder / "images")
    (folder / "images" / "no-image.png").write_bytes(b"no image")
    Folder(str(folder / "tars")).write("x.tar", tar(*((f"{i}.png", png(60 * i)) for i in range(3))))
    broden_at(Folder(str(folder / "broden")), png(99))
    make_clip(folder / "clip")
    (folder / "concepts.txt").write_text("red\ngreen\nblue\ngrey\n")
    filled.runs()
    _begin_another(filled.spec(a=7.0, keep_similarities=False))
    store = Store.at(str(filled.store))
    store.checkpoints_done().mark("0" * 20, {"checkpoint": "a.pt", "version": "1", "out": str(filled.out)})
    return filled


def _begin_another(spec: DissectSpec) -> None:
    """Labels a layer but for the last step, as a run that was killed there does."""
    plan = plan_labels(shard(spec), spec)
    find_top_images.fn(plan, "head")
    for part in plan.unsummed("head"):
        sum_softmax.fn(plan, "head", part)
    for block in plan.unscored("head"):
        score_block.fn(plan, "head", block)
