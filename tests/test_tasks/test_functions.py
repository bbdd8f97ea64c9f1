"""Networks of functions of the user's own: named by module or file, and what they may return."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import tasks
from tasks.models.errors import CheckpointError, ModelError, UnknownModelError
from tasks.models.functions import function_in, imported, network_and_preprocessing
from tasks.models.preprocess import OneImage, giving_tensors
from tasks.models.targets import Target, load_target
from tests.tiny_models import ColourNet, to_tensor

SOURCE = """
from torch import nn
from helper_of_test import classes

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def with_argument(depth):
    return net()

instance = nn.Linear(2, 2)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's own, elsewhere than the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "helper_of_test.py").write_text("classes = 5\n")
    before = set(sys.modules)
    yield tmp_path / "mine"
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, name: str, source: str = SOURCE) -> Path:
    (folder / name).write_text(source)
    return folder / name


def load(name: str) -> Target:
    load_target.cache_clear()
    torch.manual_seed(0)
    return load_target(name)


@pytest.mark.parametrize("name", ["mynet.py", "tasks.py", "resnet.py", "my-net.v2.py"])
def test_a_file_is_imported_by_its_path_and_takes_no_other_s_name(folder: Path, name: str) -> None:
    for typed in (str(write(folder, name)), f"../mine/{name}"):
        assert load(f"{typed}:net").model[3].out_features == 5  # type: ignore[index,union-attr]
    assert sys.modules["tasks"] is tasks


def test_an_identity_does_not_depend_on_where_the_file_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = load(f"{write(folder, 'mynet.py')}:net").identity
    other = load(f"{write(folder.parent / 'here', 'mynet.py')}:net").identity
    monkeypatch.chdir(folder)
    assert one == other == load("./mynet.py:net").identity == load("mynet.py:net").identity


def test_an_edited_file_is_read_anew(folder: Path) -> None:
    path = write(folder, "mynet.py")
    load(f"{path}:net")
    write(folder, "mynet.py", SOURCE.replace("classes))", "classes + 20))"))
    assert load(f"{path}:net").model[3].out_features == 25  # type: ignore[index,union-attr]


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"no file .*/mine/nowhere\.py"):
        load(f"{folder}/nowhere.py:net")


def test_a_file_that_fails_leaves_no_half_module(folder: Path) -> None:
    path = write(folder, "broken.py", "import no_such_package_at_all\n")
    with pytest.raises(UnknownModelError, match=r"'no_such_package_at_all'.*/mine"):
        load(f"{path}:net")
    assert "file_of_target_broken" not in sys.modules


def test_a_file_of_the_name_of_our_package_is_answered_with_its_path(folder: Path) -> None:
    for name in ("tasks", "random"):
        write(folder.parent / "here", f"{name}.py", "def net(): pass\n")
        with pytest.raises(UnknownModelError, match=rf"--target \./{name}\.py:net"):
            imported(f"{name}:net")
    assert random.__name__ in sys.modules


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("with_argument", r"called without arguments.*'depth'"),
        ("instance", r"is a network, not a function.*def make\(\): return instance"),
        ("nett", r"Nearest: net"),
    ],
)
def test_what_is_no_function_without_arguments_is_refused(folder: Path, function: str, words: str) -> None:
    target = f"{write(folder, 'mynet.py')}:{function}"
    with pytest.raises((ModelError, LookupError), match=words):
        function_in(imported(target), target)


# --------------------------------------------------------------------------------------------- what is returned


@pytest.mark.parametrize("more", [(), (None,), (to_tensor,), (None, to_tensor)], ids=len)
def test_a_function_may_return_one_two_or_three_things(more: tuple[Any, ...]) -> None:
    net = nn.Linear(2, 2)
    for made in ((net, *more), [net, *more]):
        assert network_and_preprocessing(made, "m:f") == (net, more[-1] if more else None)
    assert network_and_preprocessing(net, "m:f") == (net, None)


def test_of_three_things_the_last_preprocesses_for_evaluation() -> None:
    def train(image: Image.Image) -> torch.Tensor:
        raise AssertionError

    assert network_and_preprocessing((nn.Linear(2, 2), train, to_tensor), "m:f")[1] is to_tensor


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (3, "gave int, not a torch.nn.Module"),
        ((), "gave 0 things"),
        ((nn.Linear(2, 2), None, None, None), "gave 4 things .Linear, NoneType, NoneType, NoneType"),
        ((len, nn.Linear(2, 2)), "gave builtin_function_or_method, Linear, not a torch.nn.Module"),
        ((nn.Linear(2, 2), "imagenet"), "gave Linear, str: the last is no preprocessing"),
        ({"model": nn.Linear(2, 2)}, "gave dict"),
    ],
)
def test_anything_else_is_refused_with_what_was_returned(made: Any, words: str) -> None:
    with pytest.raises(ModelError, match=rf"m:f {words}.*It may return the network"):
        network_and_preprocessing(made, "m:f")


def test_programs_whose_layers_cannot_be_watched_are_refused_with_the_way_out() -> None:
    net, images = ColourNet().eval(), torch.zeros(1, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        programs = [torch.jit.trace(net, images), torch.export.export(net, (images,))]
    for program, word in zip(programs, ("TorchScript", r"torch\.export"), strict=True):
        with pytest.raises(ModelError, match=rf"{word}.*load_state_dict"):
            network_and_preprocessing((program, to_tensor), "m:f")


# -------------------------------------------------------------------------------------------------- preprocessing


PIXELS = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
FORMS: dict[str, Any] = {
    "processor": {"pixel_values": PIXELS[None]},
    "processor without tensors": {"pixel_values": [PIXELS.numpy()], "pixel_mask": None},
    "batch": PIXELS[None],
    "array": PIXELS.numpy(),
    "batch as array": PIXELS[None].numpy(),
    "list of one": [PIXELS],
    "reversed array": np.flip(PIXELS.numpy(), 0).copy()[::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_preprocessing_may_return_its_tensor_in_another_form(form: str) -> None:
    taken = giving_tensors(lambda image: FORMS[form], "m:f")
    assert isinstance(taken, OneImage)
    assert torch.equal(taken(Image.new("RGB", (4, 4))), PIXELS)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 16, 8, 8)], ids=str)
def test_a_preprocessing_that_returns_one_tensor_is_taken_as_it_is(shape: tuple[int, ...]) -> None:
    def preprocess(image: Image.Image) -> torch.Tensor:
        return torch.zeros(shape)

    assert giving_tensors(preprocess, "m:f") is preprocess


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"input_ids": 3}, "a dict of input_ids, without pixel_values"),
        ({}, "a dict of nothing"),
        (Image.new("RGB", (4, 4)), r"returns Image, not a tensor .*ToTensor"),
        ([PIXELS, PIXELS], "returns list, not a tensor"),
        (torch.zeros(8, 8), r"a tensor \[8, 8\]"),
        (np.zeros((8, 8, 3)), r"a tensor \[8, 8, 3\].*permute"),
        (None, "returns NoneType"),
    ],
)
def test_a_preprocessing_that_returns_no_image_is_refused_by_name(made: Any, words: str) -> None:
    with pytest.raises(ModelError, match=rf"The preprocessing of m:f, .*preprocess_of_mine, .*{words}"):

        def preprocess_of_mine(image: Image.Image) -> Any:
            return made

        giving_tensors(preprocess_of_mine, "m:f")


@pytest.mark.parametrize("error", [MemoryError(), ValueError("size 0"), KeyError("x")], ids=repr)
def test_a_preprocessing_that_fails_on_a_blank_image_is_named(error: Exception) -> None:
    def preprocess(image: Image.Image) -> Any:
        raise error

    with pytest.raises(ModelError) as caught:
        giving_tensors(preprocess, "m:f")
    said = str(caught.value)
    assert "m:f" in said and "64 x 64" in said and type(error).__name__ in said
    assert "MemoryError: MemoryError" not in said


def test_an_adapted_preprocessing_is_the_same_network_as_its_own(folder: Path) -> None:
    source = (
        "from tests.tiny_models import ColourNet, to_tensor\n"
        "def plain(): return ColourNet(), to_tensor\n"
        "class Batched:\n"
        "    def __call__(self, image): return {'pixel_values': to_tensor(image)[None]}\n"
        "    def __repr__(self): return 'Batched'\n"
        "def batched(): return ColourNet(), None, Batched()\n"
    )
    target = load(f"{write(folder, 'mynet.py', source)}:batched")
    assert target.identity["preprocess"].startswith("file_of_target_mynet.Batched")
    image = Image.new("RGB", (30, 20), "red")
    assert torch.equal(target.preprocess(image), to_tensor(image))


# ------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double", "mixed"])
def test_a_network_of_another_precision_becomes_float32_and_it_is_said(folder: Path, kind: str) -> None:
    change = "net[0].half()" if kind == "mixed" else f"net.{kind}()"
    source = (
        "import torch\nfrom torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))\n"
        f"    {change}\n"
        "    return net\n"
    )
    target = load(f"{write(folder, f'{kind}net.py', source)}:make")
    assert {tensor.dtype for tensor in target.model.state_dict().values()} == {torch.float32, torch.int64}
    note, _ = target.notes  # the other one is of the preprocessing
    assert "converted" in note and ("2 of float16, of 6" in note or kind != "mixed")
    assert target.model(torch.zeros(2, 3, 4, 4)).dtype == torch.float32


def test_a_network_in_float32_says_nothing() -> None:
    assert load("tests.tiny_models:colours").notes == ()


def test_a_key_without_a_checkpoint_is_refused() -> None:
    for more in ({"key": "ema"}, {"prefix": "backbone."}):
        load_target.cache_clear()
        with pytest.raises(CheckpointError, match="--checkpoint FILE"):
            load_target("tests.tiny_models:colours", None, **more)


def test_v2_transforms_may_end_in_a_batch() -> None:
    batched = v2.Compose([to_tensor, v2.Lambda(lambda image: image[None])])
    assert giving_tensors(batched, "m:f")(Image.new("RGB", (4, 4))).shape == (3, 8, 8)
