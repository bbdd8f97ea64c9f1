"""Weights from files: read without running code, fitted name by name, told apart by content."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks.models.checkpoints import load_into, read_checkpoint
from tasks.models.choosing import Checkpoint
from tasks.models.errors import CheckpointError
from tasks.models.weights_digest import digest_of_weights


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def write(path: Path, content: Any) -> str:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return str(path)


def loaded(path: str) -> nn.Module:
    model = network(seed=1)
    load_into(model, read_checkpoint(path))
    return model


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"lr": 0.1}},
    "model": lambda weights: {"model": weights, "args": [1, 2]},
    "DataParallel": lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
    "Lightning": lambda weights: {"state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}},
    "compiled": lambda weights: {f"_orig_mod.{name}": tensor for name, tensor in weights.items()},
    "both": lambda weights: {"net": {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}},
    "without counters": lambda weights: {n: t for n, t in weights.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_however_a_framework_wraps_them(tmp_path: Path, wrapping: str) -> None:
    weights = network().state_dict()
    model = loaded(write(tmp_path / "weights.pt", WRAPPINGS[wrapping](weights)))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_same_weights_have_one_digest_in_any_file(tmp_path: Path) -> None:
    model = network()
    weights = model.state_dict()
    shuffled = dict(sorted(weights.items(), reverse=True))
    files = [
        write(tmp_path / "weights.safetensors", weights),
        write(tmp_path / "weights.pt", shuffled),
        write(tmp_path / "wrapped.pth", {"state_dict": {f"module.{n}": t for n, t in weights.items()}}),
    ]
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert {digest_of_weights(loaded(file)) for file in [*files, str(tmp_path / "old.pt")]} == {
        digest_of_weights(model)
    }


def test_one_changed_bit_gives_another_digest() -> None:
    model, other = network(), network()
    with torch.no_grad():
        bits = other.state_dict()["3.bias"].view(torch.int32)
        bits[2] ^= 1
    assert digest_of_weights(model) != digest_of_weights(other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_digest_tells_types_apart(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
    assert digest_of_weights(model) != digest_of_weights(nn.Linear(2, 2).to(dtype))


def test_equal_bytes_in_other_shapes_have_other_digests() -> None:
    one, other = nn.Linear(2, 8, bias=False), nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        one.weight.zero_()
        other.weight.zero_()
    assert digest_of_weights(one) != digest_of_weights(other)


def test_a_checkpoint_that_does_not_fit_names_every_kind_of_trouble(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["3.weight"] = torch.zeros(7, 16)
    weights["extra.weight"] = weights.pop("0.bias")
    path = write(tmp_path / "weights.safetensors", weights)
    with pytest.raises(CheckpointError) as caught:
        loaded(path)
    for words in (
        path,
        "1 missing: 0.bias",
        "1 unexpected: extra.weight",
        "1 of another shape: 3.weight [7, 16] for [5, 16]",
    ):
        assert words in str(caught.value)


def test_of_many_names_that_do_not_fit_a_few_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.safetensors", {f"layer{i}": torch.zeros(1) for i in range(100)})
    with pytest.raises(CheckpointError, match=r"100 unexpected: layer0, .* …") as caught:
        loaded(path)
    assert len(str(caught.value)) < 600


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model = network()
    before = digest_of_weights(model)
    with pytest.raises(CheckpointError):
        load_into(model, Checkpoint("x", {"0.weight": torch.zeros(4, 3, 3, 3)}))
    assert digest_of_weights(model) == before


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_with_the_way_out(tmp_path: Path) -> None:
    boom = tmp_path / "boom"
    for number, content in enumerate(({"state_dict": Bomb(boom)}, network())):
        path = write(tmp_path / f"{number}.pt", content)
        with pytest.raises(CheckpointError, match=r"run code.*weights_only=False.*save_file"):
            read_checkpoint(path)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(boom), protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(str(tmp_path / "plain.pkl"))
    assert not boom.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 torn", b"\x80\x02}q", b"\x89PNG\r\n\x1a\n"]
)
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(str(tmp_path / name))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None, derandomize=True
)
@given(kind=st.sampled_from(["new.pt", "old.pt", "x.safetensors"]), cut=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_torn_or_damaged_file_is_refused_or_read(tmp_path: Path, kind: str, cut: float, byte: int) -> None:
    path = tmp_path / kind
    if kind == "x.safetensors":
        write(path, network().state_dict())
    else:
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=kind == "new.pt")
    data = path.read_bytes()
    position = int(cut * len(data))
    for damaged in (data[:position], data[:position] + bytes([byte]) + data[position + 1 :]):
        path.write_bytes(damaged)
        try:
            assert read_checkpoint(str(path))
        except CheckpointError as error:
            assert kind in str(error)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(2), {"state_dict": {}}], ids=str)
def test_a_file_without_weights_says_what_it_holds(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match="holds"):
        read_checkpoint(write(tmp_path / "weights.pt", content))


@pytest.mark.parametrize("name", ["nowhere.pt", ""])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint file"):
        read_checkpoint(str(tmp_path / name))
