"""Weights from files: read without running code, fitted name by name, told apart by content."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks.models.checkpoints import load_into, read_checkpoint
from tasks.models.choosing import Checkpoint
from tasks.models.errors import CheckpointError, ModelError
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


# ------------------------------------------------------------------------- which of the weights in a file are taken


def notes_of(tmp_path: Path, content: Any, key: str | None = None, prefix: str | None = None) -> tuple[str, ...]:
    """Notes of loading a file that holds `content`, which gives the network the weights of seed 0."""
    path = write(tmp_path / "weights.pt", content)
    model = network(seed=1)
    notes = load_into(model, read_checkpoint(path, key, prefix))
    weights = network().state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    return notes


def named(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


UNASKED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "averaged by torch": lambda weights: named("module.", weights) | {"n_averaged": torch.tensor(3)},
    "EMA alone": lambda weights: {"epoch": 3, "model_ema": weights},
    "of timm": lambda weights: {"state_dict_ema": named("module.", weights)},
}


@pytest.mark.parametrize("wrapping", UNASKED)
def test_averages_are_taken_and_named(tmp_path: Path, wrapping: str) -> None:
    [note] = notes_of(tmp_path, UNASKED[wrapping](network().state_dict()))
    assert any(word in note for word in ("n_averaged", "model_ema", "state_dict_ema"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {"a": {"b": {"model": named("module.module.", weights)}}, "epoch": torch.tensor(3)},
        lambda weights: named("model.", weights),
        lambda weights: named("student.backbone.", weights),
        lambda weights: {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in weights.items()},
        lambda weights: named("_fsdp_wrapped_module.", weights),
    ],
    ids=["two levels", "three levels", "YOLO", "own names", "compiled modules", "FSDP"],
)
def test_weights_are_found_at_any_depth(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    assert notes_of(tmp_path, wrap(network().state_dict())) == ()


def test_plain_weights_come_before_averages_and_both_are_named(tmp_path: Path) -> None:
    other = network(seed=2).state_dict()
    content = {"ema": named("module.", other), "model": network().state_dict()}
    [note] = notes_of(tmp_path, content)
    assert "under model and ema: model is taken" in note and "--checkpoint-key ema" in note


def test_a_key_chooses_and_may_lead_through_several_levels(tmp_path: Path) -> None:
    mine, other = network().state_dict(), network(seed=2).state_dict()
    assert notes_of(tmp_path, {"model": other, "model_ema": mine}, "model_ema") == ()
    assert notes_of(tmp_path, {"net.v2": {"ema": {"shadow": mine}}, "model": other}, "net.v2.ema") == ()


def test_sets_of_weights_that_fit_alike_are_not_chosen_from(tmp_path: Path) -> None:
    content = {"student": network().state_dict(), "teacher": network(seed=2).state_dict()}
    with pytest.raises(CheckpointError, match=r"2 sets .* under student, teacher.*--checkpoint-key teacher"):
        notes_of(tmp_path, content)
    assert notes_of(tmp_path, content, key="student") == ()


def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    content = {"epoch": 3, "model": network().state_dict()}
    with pytest.raises(CheckpointError, match=r"nothing under the key ema: .*epoch \(int\), model \(9 tensors\)"):
        notes_of(tmp_path, content, key="ema")


@pytest.mark.parametrize("prefix", ["encoder_q.", "encoder_q", "module.encoder_q."])
def test_a_prefix_chooses_a_part_of_a_larger_network(tmp_path: Path, prefix: str) -> None:
    weights = named("module.encoder_q.", network().state_dict())
    others = named("module.encoder_k.", network(seed=2).state_dict()) | {"module.queue": torch.zeros(3)}
    [note] = notes_of(tmp_path, {"state_dict": weights | others}, prefix=prefix)
    assert "10 of 19 entries" in note and "module.queue" in note


def test_a_part_without_a_prefix_is_refused_with_the_option_to_type(tmp_path: Path) -> None:
    weights = named("backbone.", network().state_dict()) | {"neck.weight": torch.zeros(3)}
    with pytest.raises(
        CheckpointError, match=r"9 of the network's 9 names .*--checkpoint-key s --checkpoint-prefix b"
    ):
        notes_of(tmp_path, {"s": weights})


def test_a_prefix_that_no_name_has_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    weights = named("module.q.", network().state_dict()) | named("module.k.", network().state_dict())
    with pytest.raises(CheckpointError, match=r"begins with 'encoder\.'.*: module\.q\. \(9\), module\.k\. \(9\)"):
        notes_of(tmp_path, weights, prefix="encoder.")


def test_a_part_may_lack_the_classifier_which_is_then_dead_and_said(tmp_path: Path) -> None:
    weights = named("backbone.", {n: t for n, t in network().state_dict().items() if not n.startswith("3.")})
    path = write(
        tmp_path / "weights.pt", weights | {"backbone.3.mlp.weight": torch.ones(2), "head.bias": torch.ones(1)}
    )
    model = network(seed=1)
    notes = load_into(model, read_checkpoint(path, prefix="backbone."))
    assert torch.equal(model.state_dict()["0.weight"], network().state_dict()["0.weight"])
    assert not model.state_dict()["3.weight"].any() and not model.state_dict()["3.bias"].any()
    assert any("3.bias, 3.weight are set to 0" in note and "3.mlp.weight" in note for note in notes)
    with pytest.raises(CheckpointError, match=r"missing: 3\.weight"):  # a whole network has to be whole
        load_into(network(), read_checkpoint(write(tmp_path / "whole.pt", {"backbone": weights})))


def test_a_part_that_lacks_more_than_the_classifier_is_refused(tmp_path: Path) -> None:
    weights = named("backbone.", {n: t for n, t in network().state_dict().items() if not n.startswith("0.")})
    path = write(tmp_path / "weights.pt", weights)
    with pytest.raises(CheckpointError, match=r"2 missing: 0\.weight, 0\.bias"):
        load_into(network(), read_checkpoint(path, prefix="backbone."))


# ------------------------------------------------------------------------------------ what a network itself renames


class Renamed(nn.Module):
    """Has renamed its layer since version 1, and takes files of then, as torchvision's transformers do."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.now = nn.Linear(2, 2)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any) -> None:
        if local_metadata.get("version", 1) < 2:
            for name in ("weight", "bias"):
                state_dict[f"{prefix}now.{name}"] = state_dict.pop(f"{prefix}before.{name}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_names_of_older_versions_are_those_that_the_network_takes(
    tmp_path: Path, name: str, is_old: bool, wrapper: str
) -> None:
    source, model = nn.Sequential(Renamed()), nn.Sequential(Renamed())
    weights = nn.ModuleDict({"module": source}).state_dict() if wrapper else source.state_dict()
    if is_old:
        weights = {name.replace("now", "before"): tensor for name, tensor in weights.items()}  # type: ignore[assignment]
    load_into(model, read_checkpoint(write(tmp_path / name, weights)))
    assert digest_of_weights(model) == digest_of_weights(source)


def test_names_of_densenets_that_torchvision_joins_in_its_own_loader(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("denselayer1", nn.Module())
    net.denselayer1.add_module("norm1", nn.BatchNorm2d(2))
    weights = {n.replace("norm1", "norm.1"): t for n, t in net.state_dict().items() if "num_batches" not in n}
    weights["denselayer1.norm.1.running_mean"] = torch.tensor([3.0, 4.0])
    load_into(net, read_checkpoint(write(tmp_path / "weights.pt", weights)))
    assert net.state_dict()["denselayer1.norm1.running_mean"].tolist() == [3, 4]


def test_what_an_own_loading_raises_is_said(tmp_path: Path) -> None:
    class Strict(nn.Linear):
        def _load_from_state_dict(self, *arguments: Any) -> None:
            raise KeyError("version")

    path = write(tmp_path / "weights.pt", nn.Linear(2, 2).state_dict())
    with pytest.raises(CheckpointError, match="KeyError: 'version'"):
        load_into(Strict(2, 2), read_checkpoint(path))


def test_positions_of_another_image_size_are_refused_with_both_shapes(tmp_path: Path) -> None:
    def with_positions(count: int) -> nn.Module:
        net = network()
        net.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, count, 4)))
        return net

    path = write(tmp_path / "weights.pt", with_positions(5).state_dict())
    with pytest.raises(CheckpointError, match=r"pos_embed \[1, 5, 4\] for \[1, 10, 4\].*another image size"):
        load_into(with_positions(10), read_checkpoint(path))


# ------------------------------------------------------------------------------------------------ types of tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_become_float32_and_it_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write(tmp_path / "weights.safetensors", network().to(dtype).state_dict())
    model = network(seed=1)
    [note] = load_into(model, read_checkpoint(path))
    assert str(dtype).removeprefix("torch.") in note and "8 of" in note
    assert torch.equal(model.state_dict()["3.bias"], network().state_dict()["3.bias"].to(dtype).float())


def test_integers_for_numbers_with_a_fraction_are_refused(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["3.weight"] = weights["3.weight"].to(torch.int8)
    path = write(tmp_path / "weights.pt", weights)
    with pytest.raises(CheckpointError, match=r"1 tensors .* int8.*3\.weight"):
        load_into(network(), read_checkpoint(path))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_a_sparse_tensor_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", {"3.weight": torch.eye(3).to_sparse()})
    with pytest.raises(CheckpointError, match=r"3\.weight is sparse .*to_dense"):
        read_checkpoint(path)


def test_masks_that_a_network_makes_itself_are_left_out_and_named(tmp_path: Path) -> None:
    net = network()
    net.register_buffer("mask", torch.ones(2), persistent=False)
    path = write(tmp_path / "weights.pt", net.state_dict() | {"mask": torch.ones(2)})
    [note] = load_into(net, read_checkpoint(path))
    assert "mask" in note


# ------------------------------------------------------------------------------------------- state without tensors


class Stateful(nn.Linear):
    def __init__(self, state: Any) -> None:
        super().__init__(2, 2)
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def digest_with(state: Any) -> str:
    torch.manual_seed(0)
    return digest_of_weights(Stateful(state))


def test_extra_state_is_part_of_the_digest_whatever_its_order() -> None:
    states: list[Any] = [
        *(None, 1, 1.0, True, "1", b"1", [1], {"a": 1}, {"a": 2}, {1: 1}, {"1": 1}, torch.float16, {1, 2}),
        *(torch.ones(1), torch.zeros(1), [torch.ones(1)], np.float32(1), np.ones(2), io.BytesIO(b"x"), float("nan")),
    ]
    assert len({digest_with(state) for state in states}) == len(states)
    assert digest_with({"a": 1, "b": [2]}) == digest_with({"b": [2], "a": 1})
    assert digest_with({"x", "y", "z"}) == digest_with({"z", "y", "x"})


def test_extra_state_without_content_to_compare_is_refused() -> None:
    with pytest.raises(ModelError, match=r"_extra_state of the network holds builtins\.object"):
        digest_with({"a": object()})


def test_extra_state_comes_from_the_file_and_its_lack_is_said(tmp_path: Path) -> None:
    model, source = Stateful({"version": 1}), Stateful({"version": 2})
    assert load_into(model, read_checkpoint(write(tmp_path / "weights.pt", source.state_dict()))) == ()
    assert model.state == {"version": 2}
    plain = {name: value for name, value in source.state_dict().items() if isinstance(value, Tensor)}
    [note] = load_into(model, read_checkpoint(write(tmp_path / "weights.safetensors", plain)))
    assert "lacks the extra state of 1 modules" in note
