"""Tasks run as plain functions, one after another, on the tiny probe set."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from storage import arrays
from storage.completion import Rows
from storage.layer_arrays import array_name
from tasks.concepts import concept_embeddings_of, embed_concepts
from tasks.detailing import DetailsPlan, plan_details
from tasks.details import join_details, measure
from tasks.finished import FinishedRun
from tasks.label import find_top_images, join_labels, score_block, sum_softmax
from tasks.labelling import LabelPlan, plan_labels
from tasks.models.clip import Clip, PlacedClip, load_clip
from tasks.models.devices import Placement
from tasks.models.targets import load_target
from tasks.observation import EMBEDDINGS, ActivationsRef, ObservationPlan, plan_observation
from tasks.observe import observe
from tasks.publish import plan_publication, publish
from tasks.sample.world import PER_BLOCK, draw, scene
from tasks.shard import ProbeRef, finish_probe, make_shards, plan_shards
from tasks.spec import DissectSpec, EmbedSpec, LabelSpec, RecordSpec, ShardSpec
from tests.conftest import draw_images, single_threaded, write_embeddings

if TYPE_CHECKING:
    from tests.test_tasks.stores import Filled

#: Rows of the shard groups of `filled`.
SMALL_GROUP = 32
#: A CLIP model of two small transformers.
TINY_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with single_threaded():
        yield


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    """Models are cached by name, and tests make other models of one name."""
    registered = list(open_clip.factory._MODEL_CONFIG_PATHS)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS[:] = registered
    load_target.cache_clear()
    load_clip.cache_clear()


#: Writes lines into a file and gives its path.
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """For what users write by hand."""

    def go(name: str, *lines: str) -> str:
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return go


@dataclass(frozen=True)
class Bench:
    """The tiny probe set, its embeddings, and a store of the test's own."""

    images: Path
    image_embeddings: Path
    concepts: Path
    concept_embeddings: Path
    store: str

    def spec(self, **changes: Any) -> DissectSpec:
        """The colour network on the tiny probe set, with changes; None takes a parameter away."""
        parameters: dict[str, Any] = {
            "store": self.store,
            "device": "cpu",
            "batch_size": 16,
            "probe": str(self.images),
            "images_per_shard": 20,
            "image_embeddings": str(self.image_embeddings),
            "concepts": str(self.concepts),
            "concept_embeddings": str(self.concept_embeddings),
            "target": "tests.tiny_models:colours",
            "layers": ("conv", "head"),
            "top_k": 5,
            "ranks": 4,
        }
        parameters |= changes
        return DissectSpec(**{name: value for name, value in parameters.items() if value is not None})


@pytest.fixture
def empty_bench(images: Path, embeddings: tuple[Path, Path, Path], tmp_path: Path) -> Bench:
    """Files and a store in which nothing is yet."""
    return Bench(images, *embeddings, str(tmp_path / "store"))


@pytest.fixture
def bench(empty_bench: Bench) -> Bench:
    """What tests of a module begin with, unless the module says otherwise."""
    return empty_bench


@pytest.fixture(scope="package")
def labelled_once(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Path:
    """A folder with a bench's files, whose unchanged spec is labelled; no test changes it."""
    folder = tmp_path_factory.mktemp("labelled")
    images = draw_images(folder / "images")
    labelled(Bench(images, *write_embeddings(images, folder), str(folder / "store")).spec())
    return folder


@pytest.fixture
def labelled_bench(labelled_once: Path, tmp_path: Path) -> Bench:
    """A bench of the test's own whose unchanged spec is labelled."""
    own = tmp_path / "labelled"
    shutil.copytree(labelled_once, own)
    files = ("images", "image_embeddings.npy", "concepts.txt", "concept_embeddings.npy")
    return Bench(*(own / name for name in files), str(own / "store"))


@pytest.fixture
def studied(labelled_bench: Bench, tmp_path: Path) -> FinishedRun:
    """A published run of the test's own, store and all: head's neurons are the colours, and their truth is known."""
    spec = labelled_bench.spec(out=str(tmp_path / "out"), truth=str(labelled_bench.concepts))
    publish.fn(plan_publication(labelled(spec), spec))
    return FinishedRun.at(str(tmp_path / "out"))


@pytest.fixture(scope="package")
def sample_run(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> str:
    """The embedded sample dissected on 400 of its images, 20 of each shape; no test changes it."""
    folder = tmp_path_factory.mktemp("sample")
    for index in range(0, PER_BLOCK, 6):
        path = folder / "images" / scene(index, "probe").shape / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(scene(index, "probe"))).save(path)
    names = dict.fromkeys(("target", "clip", "concepts", "truth"), "sample")
    given: dict[str, Any] = {"layers": ("block5", "head"), "device": "cpu", "probe": str(folder / "images"), **names}
    spec = DissectSpec(**given, store=str(folder / "store"), out=str(folder / "out"))
    publish.fn(plan_publication(labelled(spec), spec))
    return str(folder / "out")


def png(value: int = 0, size: tuple[int, int] = (5, 4)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[..., ShardSpec]:
    """A probe set of the sources given, with a store of the test's own."""

    def make(*probe: object, **more: Any) -> ShardSpec:
        store = more.pop("store", tmp_path / "store")
        return ShardSpec(probe=tuple(map(str, probe)), store=str(store), **more)

    return make


def shard(spec: ShardSpec) -> ProbeRef:
    plan = plan_shards(spec)
    for work in plan.work:
        make_shards.fn(plan.packing, work)
    return finish_probe.fn(plan)


def observed(probe: ProbeRef, embed: EmbedSpec | None, record: RecordSpec | None) -> ObservationPlan:
    plan = plan_observation(probe, embed, record)
    for work in plan.work:
        observe.fn(plan, work)
    return plan


def labelled(spec: LabelSpec) -> LabelPlan:
    """Everything up to the labels, whatever of it is missing."""
    probe = shard(spec)
    embed_concepts.fn(concept_embeddings_of(spec), spec, 0)
    observed(probe, spec, spec)
    plan = plan_labels(probe, spec)
    for layer in plan.missing:
        label_layer(plan, layer)
    return plan


def detailed(probe: ProbeRef, spec: DissectSpec) -> DetailsPlan | None:
    """Details of recorded neurons, of which only what is missing is done; None where the spec wants none."""
    if spec.details == "none":
        return None
    plan = plan_details(probe, spec)
    for layer in plan.missing:
        for block in plan.unmeasured(layer):
            measure.fn(plan, layer, block)
        join_details.fn(plan, layer)
    return plan


def label_layer(plan: LabelPlan, layer: str) -> None:
    """The four steps of labelling, of which only what is missing is done."""
    if layer in plan.unfound:
        find_top_images.fn(plan, layer)
    for part in plan.unsummed(layer):
        sum_softmax.fn(plan, layer, part)
    for block in plan.unscored(layer):
        score_block.fn(plan, layer, block)
    join_labels.fn(plan, layer)


def recording(plan: ObservationPlan) -> ActivationsRef:
    """The one recording of a plan with one summary function."""
    [of] = plan.activations.values()
    return of


def activations(plan: ObservationPlan, layer: str) -> np.ndarray[Any, Any]:
    """What is stored of a layer, `[I, N]`."""
    group = recording(plan).group()
    return arrays.read_rows(group, array_name(group, layer), Rows(0, plan.probe.num_images))


def image_embeddings(plan: ObservationPlan) -> np.ndarray[Any, Any]:
    """The stored image embeddings, `[I, D]`."""
    of = plan.embeddings
    assert of is not None
    return arrays.read_rows(of.group(), EMBEDDINGS, Rows(0, plan.probe.num_images))


def on_cpu(clip: Clip) -> PlacedClip:
    """A CLIP model ready to embed."""
    return PlacedClip(clip, Placement(torch.device("cpu")))


@dataclass(frozen=True)
class TinyClip:
    """Files of a CLIP model with random weights."""

    config: Path
    checkpoint: Path

    @property
    def options(self) -> dict[str, str]:
        return {"clip": str(self.config), "clip_checkpoint": str(self.checkpoint)}


@pytest.fixture
def tiny_clip(tmp_path: Path) -> TinyClip:
    return make_clip(tmp_path / "clip")


def make_clip(folder: Path, seed: int = 0, **vision: Any) -> TinyClip:
    """A config and weights; `vision` changes the architecture of the image encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, checkpoint = folder / "tiny-test-clip.json", folder / "tiny.safetensors"
    content = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], **vision}}  # type: ignore[dict-item]
    config.write_text(json.dumps(content))
    open_clip.add_model_config(config)
    torch.manual_seed(seed)
    model = open_clip.create_model(config.stem)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, checkpoint)
    return TinyClip(config, checkpoint)


@pytest.fixture(scope="package")
def filled_once(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Filled:
    """A store with every kind of file, that no test changes, or only until it ends."""
    from tests.test_tasks.stores import fill

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.completion.ROWS_UNIT", SMALL_GROUP)
        filled = fill(tmp_path_factory.mktemp("filled"))
    shutil.copytree(filled.folder, filled.folder.parent / "backup")
    return filled


@pytest.fixture
def filled(filled_once: Filled) -> Iterator[Filled]:
    """Where it was made, for runs know where they are published; afterwards as it was."""
    yield filled_once
    for folder in (filled_once.store, filled_once.out):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(filled_once.folder.parent / "backup" / folder.name, folder)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny probe set has two shard groups, as in `filled`."""
    monkeypatch.setattr("storage.completion.ROWS_UNIT", SMALL_GROUP)
