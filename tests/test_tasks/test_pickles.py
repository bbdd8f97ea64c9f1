"""Files of weights and arrays that would run code when they are loaded: none does, wherever it is given."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import EmbeddingsError
from tasks.models.checkpoints import FORCE, loading
from tasks.models.clip import create_clip, load_clip
from tasks.models.errors import CheckpointError, ModelError
from tasks.models.targets import load_target
from tasks.precomputed import read_npy
from tests.test_tasks.conftest import TINY_CLIP, TinyClip
from tests.test_tasks.test_checkpoints import Bomb


@pytest.fixture
def boom(tmp_path: Path) -> Path:
    """What is there when code of a file was run."""
    return tmp_path / "boom"


def bomb_at(path: Path, boom: Path) -> str:
    torch.save({"state_dict": {"a": torch.ones(1), "b": Bomb(boom)}}, path)
    return str(path)


def test_the_bomb_works(boom: Path, tmp_path: Path) -> None:
    torch.load(bomb_at(tmp_path / "x.pt", boom), weights_only=False)
    assert boom.exists()


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "ckpt", "pkl", "safetensors", "npz"])
@pytest.mark.parametrize("target", ["torchvision:resnet18", "timm:resnet18", "tests.tiny_models:colours", "clip"])
def test_a_checkpoint_of_a_target(target: str, ending: str, boom: Path, tmp_path: Path, tiny_clip: TinyClip) -> None:
    name = f"open_clip:{tiny_clip.config}" if target == "clip" else target
    with pytest.raises(CheckpointError):
        load_target(name, bomb_at(tmp_path / f"x.{ending}", boom))
    assert not boom.exists()


def test_a_checkpoint_of_clip_is_refused_with_the_way_out(boom: Path, tmp_path: Path, tiny_clip: TinyClip) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read .*mkdir.*run code.*save_file"):
        load_clip(str(tiny_clip.config), bomb_at(tmp_path / "x.pt", boom))
    assert not boom.exists()


def test_a_folder_of_clip(boom: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    bomb_at(folder / "open_clip_pytorch_model.bin", boom)
    with pytest.raises(ModelError, match=r"run code.*save_file"):
        create_clip(f"local-dir:{folder}", None)
    assert not boom.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.pth"])
def test_a_folder_of_timm(name: str, boom: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 10}))
    bomb_at(tmp_path / name, boom)
    with pytest.raises(ModelError):
        load_target(f"timm:local-dir:{tmp_path}", None)
    assert not boom.exists()


def test_weights_that_torchvision_has_downloaded(boom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    bomb_at(folder / ResNet18_Weights.DEFAULT.url.rpartition("/")[2], boom)
    with pytest.raises(ModelError, match=r"run code.*save_file"):
        load_target("torchvision:resnet18", None)
    assert not boom.exists() and FORCE not in os.environ


@pytest.mark.parametrize("save", [np.save, lambda file, array: file.write_bytes(pickle.dumps(array))])
def test_embeddings(save: Callable[[Path, Any], None], boom: Path, tmp_path: Path) -> None:
    save(tmp_path / "x.npy", np.array([[Bomb(boom)]], dtype=object))
    with pytest.raises(EmbeddingsError, match=r"no \.npy matrix of numbers"):
        read_npy(str(tmp_path / "x.npy"))
    np.savez(tmp_path / "y.npz", x=np.array([Bomb(boom)], dtype=object))
    with pytest.raises(EmbeddingsError):
        read_npy(str(tmp_path / "y.npz"))
    assert not boom.exists()


def test_a_function_of_one_s_own_may_load_what_it_trusts(boom: Path, tmp_path: Path) -> None:
    path = bomb_at(tmp_path / "x.pt", boom)
    with loading(only_tensors=False):
        torch.load(path, weights_only=False)
    assert boom.exists()
    with pytest.raises(CheckpointError, match=r"run code.*save_file"), loading():
        torch.load(path, weights_only=False)
    assert FORCE not in os.environ


def test_a_model_config_cannot_ask_to_run_the_code_of_a_tokenizer(
    tmp_path: Path, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class AutoTokenizer:
        @classmethod
        def from_pretrained(cls, name: str, **more: Any) -> object:
            asked.append(more)
            return object()

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoTokenizer=AutoTokenizer))
    config = json.loads(tiny_clip.config.read_text())
    config["text_cfg"] |= {"hf_tokenizer_name": "evil", "tokenizer_kwargs": {"trust_remote_code": True}}
    tiny_clip.config.write_text(json.dumps(config))
    load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint))
    assert [more["trust_remote_code"] for more in asked] == [False]
