"""How images become a network's inputs: as it says itself, as ImageNet's networks do, or as --preprocess says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.transforms import v2

from storage.files import Folder
from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.dissection.layouts import Axes, Layout
from tasks.finished import FinishedRun, StudyError
from tasks.models.errors import ModelError, UnknownModelError
from tasks.models.preprocess import chosen_preprocess, describe, image_shape
from tasks.models.targets import Target, load_target
from tasks.models.trial import network_notes, trial_images, try_network
from tasks.observation import plan_observation
from tasks.parameters import TargetSpec
from tasks.preprocess_choice import PreprocessChoice
from tasks.spec import DissectSpec
from tests.test_tasks.conftest import Bench, shard

CIFAR = "32,mean=0.4914/0.4822/0.4465,std=0.247/0.2435/0.2616"
#: A target of this module; see below.
BARE, BROUGHT = f"{__name__}:bare", f"{__name__}:brought"


def bare() -> nn.Module:
    return nn.Conv2d(3, 2, 3)


def brought() -> tuple[nn.Module, object]:
    return nn.Conv2d(3, 2, 3), halved


def halved(image: Image.Image) -> Tensor:
    return torch.full((3, image.height // 2, image.width // 2), 0.5)


def mixing() -> tuple[nn.Module, object]:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)), halved_pixels


def halved_pixels(image: Image.Image) -> Tensor:
    return v2.functional.to_dtype(v2.functional.pil_to_tensor(image.resize((8, 8))), torch.float32, scale=True)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    load_target.cache_clear()
    yield
    load_target.cache_clear()


def spec(target: str = BARE, **more: str) -> TargetSpec:
    return TargetSpec(target=target, layers=("0",), **more)  # type: ignore[arg-type]


def pixels(preprocess: str, image: Image.Image) -> Tensor:
    return chosen_preprocess(preprocess)[0](image)


def test_a_size_gives_the_middle_of_the_image_between_0_and_1() -> None:
    image = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (32, 1, 3)))  # 64 x 32
    found = pixels("32", image)
    assert found.shape == (3, 32, 32)
    assert torch.allclose(found[0, 0], torch.arange(16, 48) * 4 / 255)


def test_images_of_cifar_are_neither_resized_nor_cropped_and_normalised_by_the_numbers_given() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    raw = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
    assert torch.allclose(pixels(CIFAR, image), (raw - mean[:, None, None]) / std[:, None, None], atol=1e-6)
    assert torch.allclose(pixels("32,mean=0.5", image), raw - 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32", PreprocessChoice(32)),
        ("32, std=0.5", PreprocessChoice(32, std=(0.5, 0.5, 0.5))),
        ("8,std=1/2/3,mean=-1e-1", PreprocessChoice(8, (-0.1,) * 3, (1.0, 2.0, 3.0))),
        ("a.b:c", PreprocessChoice(function=("a.b", "c"))),
    ],
)
def test_a_choice_is_read_as_it_is_typed(text: str, expected: PreprocessChoice) -> None:
    assert PreprocessChoice.of(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cifar", "does not begin with a size"),
        ("0", "does not begin with a size"),
        ("32x32", "does not begin with a size"),
        ("mean=0.5", "does not begin with a size"),
        ("32,0.5", "'0.5' is no mean or std"),
        ("32,mean=1,mean=2", "'mean=2' is no mean or std"),
        ("32,mean=0.5/0.5", "neither a number nor three"),
        ("32,mean=", "neither a number nor three"),
        ("32,mean=nan", "neither a number nor three"),
        ("32,std=0", "above 0"),
        ("32,std=1/1/-1", "above 0"),
        (":f", "no module:function"),
        ("m:", "no module:function"),
    ],
)
def test_another_text_is_refused_by_what_is_wrong_with_it(text: str, says: str) -> None:
    with pytest.raises(ValidationError, match=f"--preprocess {text!r}.*{says}"):
        spec(preprocess=text)


def test_a_number_in_a_spec_file_is_a_size() -> None:
    assert TargetSpec.model_validate({"target": BARE, "layers": "0", "preprocess": 32}).preprocess == "32"


def test_what_is_named_takes_the_place_of_what_a_network_brings() -> None:
    for target in (BARE, BROUGHT, "torchvision:squeezenet1_1/random"):
        loaded = load_target(target, preprocess="32")
        assert image_shape(loaded.preprocess) == (3, 32, 32)
    named = load_target(BARE, preprocess=f"{__name__}:halved")
    assert named.identity["preprocess"] == load_target(BROUGHT, preprocess=None).identity["preprocess"]


def test_a_function_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no preprocessing 'halve'.*Nearest: halved"):
        load_target(BARE, preprocess=f"{__name__}:halve")
    with pytest.raises(UnknownModelError, match=r"'no_such_module' to take the --preprocess no_such_module:f from"):
        load_target(BARE, preprocess="no_such_module:f")


def test_the_same_inputs_are_one_identity_however_they_are_named() -> None:
    assumed, said = load_target(BARE).identity, load_target(BARE, preprocess="imagenet").identity
    assert assumed == said
    texts = [describe(chosen_preprocess(text)[0]) for text in ("32", "32,mean=0,std=1", "33", "32,mean=0.1", CIFAR)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_a_network_that_brings_no_preprocessing_is_told_unless_one_is_named() -> None:
    notes = network_notes(spec())
    assert f"{BARE} brings no preprocessing" in notes[0]
    assert "--preprocess imagenet" in notes[0]
    for quiet in (spec(preprocess="imagenet"), spec(preprocess="32"), spec(BROUGHT)):
        assert not any("brings no preprocessing" in note for note in network_notes(quiet))


def test_a_network_with_random_weights_is_told_unless_it_has_a_checkpoint(tmp_path: Path) -> None:
    assert any("draws weights at random" in note for note in network_notes(spec(preprocess="32")))
    torch.save(nn.Conv2d(3, 2, 3).state_dict(), tmp_path / "weights.pt")
    loaded = spec(preprocess="32", checkpoint=str(tmp_path / "weights.pt"))
    assert network_notes(loaded) == ()
    assert network_notes(spec("torchvision:squeezenet1_1/random")) == ()  # it is asked for by name


def test_a_preprocessing_that_depends_on_chance_is_refused() -> None:
    flips = v2.Compose([v2.Resize(8), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    with pytest.raises(ModelError, match="another input of the same image each time"):
        trial_images(flips)


def test_a_layer_is_tried_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("tasks.models.trial.refuse_batch_dependence", lambda *given: tried.append(list(given[2])))
    target = Target("x", nn.Identity(), halved_pixels, {})
    for layers in (["a"], ["a", "b"], ["b"]):
        try_network(target, {name: Layout(Axes.MAP) for name in layers})
    assert tried == [["a"], ["b"]]


def test_a_network_that_depends_on_the_batch_is_refused_before_anything_is_recorded(bench: Bench) -> None:
    wrong = bench.spec(target=f"{__name__}:mixing", layers=("1",))
    probe = shard(wrong)
    with pytest.raises(LayerError, match=r"Layer '1' .*module '1' \(BatchNorm2d\)"):
        plan_observation(probe, None, wrong)
    assert plan_observation(probe, None, bench.spec(target=f"{__name__}:mixing", layers=("0",))).missing


def test_a_file_alone_does_not_choose_a_preprocessing_that_runs_code(tmp_path: Path) -> None:
    given = {"target": "sample", "layers": ("head",), "probe": "x", "clip": "sample", "concepts": "sample"}
    run = FinishedRun(Folder.at(str(tmp_path)), {"spec": {**given, "preprocess": "evil:crop"}, "probe": "s/probes/x"})
    run.__dict__["spec"] = DissectSpec(**run.facts["spec"])
    with pytest.raises(StudyError, match=r"somebody's own, evil:crop, which W would run: type --target sample"):
        run.network(None, "W")
    assert run.network("sample", "W") == "sample"


def test_a_long_description_is_cut_and_its_end_counts() -> None:
    texts = [describe(v2.Compose([v2.Resize(8)] * 500 + [v2.Lambda(Picked(i))])) for i in (1, 2)]  # type: ignore[arg-type]
    texts += [describe(v2.Compose([v2.Normalize([i], [1]) for i in range(end)])) for end in (500, 501)]  # type: ignore[arg-type]
    assert len(set(texts)) == 4
    assert all(len(text) < 5_000 for text in texts)


class Picked:
    def __init__(self, value: int) -> None:
        self.value = value

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.point(lambda pixel: pixel + self.value)
