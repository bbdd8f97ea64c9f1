"""Forms that weights come in: several files with an index, TorchScript, torch.export, pickles that are refused."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks.models.checkpoints import load_into, read_checkpoint
from tasks.models.errors import CheckpointError
from tasks.models.torchscript import read_torchscript
from tasks.models.weight_files import read_content
from tests.test_tasks.test_checkpoints import Bomb, network


def index(folder: Path, places: dict[str, str], name: str = "model.safetensors.index.json") -> str:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return str(folder / name)


def halves(folder: Path, ending: str, save: Callable[[Any, Path], None]) -> dict[str, str]:
    """Two files that hold the network's weights together; the file of each tensor."""
    weights = network().state_dict()
    files = [f"model-0000{number}-of-00002.{ending}" for number in (1, 2)]
    places = {name: files[number % 2] for number, name in enumerate(weights)}
    for file in files:
        save({name: weights[name] for name, place in places.items() if place == file}, folder / file)
    return places


@pytest.mark.parametrize(("ending", "save"), [("safetensors", save_file), ("bin", torch.save)])
def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path, ending: str, save: Any) -> None:
    path = index(tmp_path, halves(tmp_path, ending, save))
    model = network(seed=1)
    load_into(model, read_checkpoint(path))
    assert all(torch.equal(tensor, network().state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_an_index_lists_and_is_not_there_is_named(tmp_path: Path) -> None:
    path = index(tmp_path, halves(tmp_path, "safetensors", save_file))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of the 2 files .*: model-00002-of-00002\.safetensors\."):
        read_content(path)


def test_a_tensor_that_its_file_lacks_is_named(tmp_path: Path) -> None:
    places = halves(tmp_path, "safetensors", save_file) | {"4.weight": "model-00001-of-00002.safetensors"}
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors lacks 1 of .*4\.weight"):
        read_content(index(tmp_path, places))


def test_one_of_several_files_is_refused_with_the_index_to_give(tmp_path: Path) -> None:
    halves(tmp_path, "safetensors", save_file)
    with pytest.raises(
        CheckpointError, match=r"holds a part of the weights: give the file that ends in \.index\.json"
    ):
        load_into(network(), read_checkpoint(str(tmp_path / "model-00001-of-00002.safetensors")))


@pytest.mark.parametrize(
    "places", [{}, {"a": "../x.safetensors"}, {"a": "/etc/passwd"}, {"a": 3}, [1], None], ids=str
)
def test_an_index_that_is_none_or_leads_elsewhere_is_refused(tmp_path: Path, places: Any) -> None:
    with pytest.raises(CheckpointError, match="is no index of weights files"):
        read_content(index(tmp_path, places))


# ----------------------------------------------------------------------------------------------------- TorchScript


class Scripted(nn.Module):
    """Has what archives hold: weights in half precision, a mask, a shared module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.again = self.head
        self.register_buffer("mask", torch.ones(2, 2).tril(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.again(self.head(self.body(images).mean((2, 3))).repeat(1, 2) @ self.mask.repeat(2, 2))


def archive(path: Path, net: nn.Module, script: bool = False) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files are about
        images = torch.zeros(1, 3, 8, 8, dtype=next(net.parameters()).dtype)
        made = torch.jit.script(net) if script else torch.jit.trace(net, images, check_trace=False)
        torch.jit.save(made, path)
    return str(path)


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_torchscript_archive_has_the_tensors_of_its_state_dict(
    tmp_path: Path, script: bool, dtype: torch.dtype
) -> None:
    net = Scripted().eval().to(dtype)
    if script:
        net.again = nn.Linear(2, 2, dtype=dtype)
        net.head = nn.Linear(4, 2, dtype=dtype)
    else:
        net.again, net.head = nn.Linear(4, 2, dtype=dtype), net.again
    path = archive(tmp_path / "net.pt", net, script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(path).state_dict()
    found = read_torchscript(path)
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
    )


def test_the_weights_of_a_torchscript_archive_fit_the_network_that_it_was_made_of(tmp_path: Path) -> None:
    model = Scripted().eval()
    with torch.no_grad():
        model.body[0].weight.fill_(7)  # type: ignore[union-attr,operator]
    path = archive(tmp_path / "net.pt", model)
    other = Scripted()
    [note] = load_into(other, read_checkpoint(path))
    assert "mask" in note
    assert other.state_dict()["body.0.weight"].unique().tolist() == [7]


def test_an_archive_that_would_build_something_else_builds_nothing(tmp_path: Path) -> None:
    boom = tmp_path / "boom"
    path = archive(tmp_path / "net.pt", Scripted())
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w") as target:
        for info in source.infolist():
            data = pickle.dumps(Bomb(boom), protocol=2) if info.filename == "net/data.pkl" else source.read(info)
            target.writestr(info.filename, data)
    with pytest.raises(
        CheckpointError, match=r"TorchScript archive .*mkdir.*python -c .*save_file.*'evil\.safetensors'"
    ):
        read_checkpoint(str(evil))
    assert not boom.exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_torn_archive_is_refused_by_name(tmp_path: Path, share: float) -> None:
    path = Path(archive(tmp_path / "net.pt", Scripted()))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        read_checkpoint(str(path))


def test_a_program_of_torch_export_is_answered_with_the_command_that_takes_its_weights_out(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("net/archive_format", "pt2")
    with pytest.raises(CheckpointError, match=r"torch\.export.*python -c .*save_file.*net\.safetensors"):
        read_content(str(path))


# --------------------------------------------------------------------------------------------------------- pickles


class HistoryBuffer:
    """As frameworks put beside the weights."""

    values: Any = None


@pytest.mark.parametrize("old", [True, False])
def test_a_refused_pickle_names_what_it_would_build(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "epoch_3.pth"
    content = {"state_dict": network().state_dict(), "meta": HistoryBuffer(), "args": argparse.Namespace(lr=1)}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError) as caught:
        read_content(str(path))
    said = str(caught.value)
    assert f"{__name__}.HistoryBuffer" in said
    assert old or "argparse.Namespace" in said
    for words in ("torch.load(", "weights_only=False", "safetensors.torch.save_file(", "'epoch_3.safetensors'"):
        assert words in said
    assert "\x1b" not in said and "\n" not in said


def test_the_lines_of_python_in_the_message_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = network().state_dict()
    torch.save({"state_dict": weights, "meta": HistoryBuffer()}, "x.pth")
    with pytest.raises(CheckpointError) as caught:
        read_content("x.pth")
    said = str(caught.value)
    first = said.partition("Python: ")[2].partition(", and safetensors")[0]
    second = said.partition(", and ")[2].partition(". (Where")[0]
    exec(f"import torch, safetensors.torch\n{first}\n{second}")
    assert read_content("x.safetensors").keys() == weights.keys()


def test_a_damaged_file_is_not_called_a_pickle(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue()[:-40])
    with pytest.raises(
        CheckpointError, match=r"x\.pt cannot be read as weights .*damaged, or no weights file"
    ) as caught:
        read_content(str(tmp_path / "x.pt"))
    assert "run code" not in str(caught.value)
