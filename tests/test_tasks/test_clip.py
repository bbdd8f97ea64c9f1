"""CLIP models: a config and weights of one's own, and no random weights by mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tasks.dissection.errors import UnknownNameError
from tasks.models.clip import Clip, load_clip
from tasks.models.errors import CheckpointError, ModelError
from tests.test_tasks.conftest import TinyClip, make_clip, on_cpu


def load(files: TinyClip) -> Clip:
    """As a fresh process would."""
    load_clip.cache_clear()
    return load_clip(str(files.config), str(files.checkpoint))


def test_a_config_and_a_checkpoint_make_the_model_whose_weights_they_are(tiny_clip: TinyClip) -> None:
    clip, weights = load(tiny_clip), load_file(tiny_clip.checkpoint)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in clip.model.state_dict().items())
    assert not clip.model.training


def test_embeddings_are_unit_vectors_and_those_of_open_clip(tiny_clip: TinyClip) -> None:
    clip = load(tiny_clip)
    images = torch.stack([clip.preprocess(Image.new("RGB", (30, 20), colour)) for colour in ("red", "green", "blue")])
    embedded, texts = on_cpu(clip).embed_images(images, 8)(), on_cpu(clip).embed_texts(["a red square", "blue"])
    assert (embedded.shape, embedded.dtype, texts.shape) == ((3, 8), torch.float32, (2, 8))
    assert torch.allclose(embedded.norm(dim=1), torch.ones(3))
    assert torch.allclose(texts.norm(dim=1), torch.ones(2))
    with torch.inference_mode():
        expected = clip.model.encode_image(images, normalize=True)
        expected_texts = clip.model.encode_text(open_clip.tokenize(["a red square", "blue"], 8), normalize=True)
    assert torch.allclose(embedded, expected, atol=1e-6)
    assert torch.allclose(texts, expected_texts, atol=1e-6)


def test_a_text_of_any_length_is_embedded(tiny_clip: TinyClip) -> None:
    assert on_cpu(load(tiny_clip)).embed_texts(["word " * 500, ""]).isfinite().all()


def test_the_identity_is_that_of_content_not_of_place(tiny_clip: TinyClip, tmp_path: Path) -> None:
    assert load(make_clip(tmp_path / "elsewhere")).identity == load(tiny_clip).identity


def test_other_weights_are_another_model(tiny_clip: TinyClip, tmp_path: Path) -> None:
    assert load(make_clip(tmp_path / "other", seed=1)).identity != load(tiny_clip).identity


def test_another_architecture_for_the_same_weights_is_another_model(tiny_clip: TinyClip, tmp_path: Path) -> None:
    # One head of 16 and two of 8 have the same tensors and give other embeddings.
    before = load(tiny_clip)
    image = before.preprocess(Image.new("RGB", (30, 20), "red"))[None]
    embedded = on_cpu(before).embed_images(image, 8)()
    other = make_clip(tmp_path / "other", head_width=16)
    other.checkpoint.write_bytes(tiny_clip.checkpoint.read_bytes())
    after = load(other)
    assert not torch.allclose(on_cpu(after).embed_images(image, 8)(), embedded)
    assert after.identity != before.identity


@pytest.mark.parametrize("name", ["ViT-B-32", "config"])
def test_a_model_without_weights_is_refused_not_made_random(name: str, tiny_clip: TinyClip) -> None:
    with pytest.raises(ModelError, match=r"needs weights.*--clip-checkpoint FILE"):
        load_clip(str(tiny_clip.config) if name == "config" else name, None)


def test_missing_weights_are_answered_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"--clip ViT-B-32/\w+"):
        load_clip("ViT-B-32", None)


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'ViT-B32'.*Nearest: .*ViT-B-32"):
        load_clip("ViT-B32/openai", None)


def test_unknown_weights_are_answered_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"opnai.*openai") as caught:
        load_clip("ViT-B-32/opnai", None)
    assert "network" not in str(caught.value)


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no model config .*nowhere\.json"):
        load_clip(str(tmp_path / "nowhere.json"), None)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"embed_dim": 8}'])
def test_a_config_that_describes_no_model_is_named(content: str, tiny_clip: TinyClip, tmp_path: Path) -> None:
    config = tmp_path / "no-model.json"
    config.write_text(content)
    with pytest.raises(ModelError, match="no-model"):
        load_clip(str(config), str(tiny_clip.checkpoint))


def test_a_checkpoint_that_is_not_there_is_named(tiny_clip: TinyClip) -> None:
    with pytest.raises(CheckpointError, match=r"There is no CLIP checkpoint file nowhere\.pt"):
        load_clip(str(tiny_clip.config), "nowhere.pt")


def without_one(weights: dict[str, Any]) -> None:
    del weights["visual.conv1.weight"]


def of_another_shape(weights: dict[str, Any]) -> None:
    weights["visual.conv1.weight"] = torch.zeros(5, 3, 8, 8)


def with_one_more(weights: dict[str, Any]) -> None:
    weights["visual.conv1.weight_of_mine"] = torch.zeros(1)


@pytest.mark.parametrize("damage", [without_one, of_another_shape, with_one_more])
def test_a_checkpoint_that_does_not_fit_names_the_weights(tiny_clip: TinyClip, damage: Any) -> None:
    weights = load_file(tiny_clip.checkpoint)
    damage(weights)
    save_file(weights, tiny_clip.checkpoint)
    with pytest.raises(CheckpointError, match=r"does not fit.*visual\.conv1\.weight"):
        load(tiny_clip)


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.pt"])
def test_a_foreign_file_is_no_checkpoint(tiny_clip: TinyClip, name: str) -> None:
    checkpoint = tiny_clip.checkpoint.with_name(name)
    checkpoint.write_bytes(b"<html>404</html>")
    with pytest.raises(CheckpointError, match=name):
        load(TinyClip(tiny_clip.config, checkpoint))


def test_a_folder_of_config_and_weights_is_a_model(tiny_clip: TinyClip, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    content = {"model_cfg": json.loads(tiny_clip.config.read_text()), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    (folder / "open_clip_model.safetensors").write_bytes(tiny_clip.checkpoint.read_bytes())
    clip = load_clip(f"local-dir:{folder}", None)
    assert clip.identity["weights"] == load(tiny_clip).identity["weights"]
    assert on_cpu(clip).embed_texts(["red"]).shape == (1, 8)
