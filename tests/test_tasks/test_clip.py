"""CLIP models: a config and weights of one's own, and no random weights by mistake."""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tasks.dissection.errors import UnknownNameError
from tasks.models.choosing import Checkpoint
from tasks.models.clip import Clip, _refuse_other_activation, load_clip
from tasks.models.errors import CheckpointError, DownloadError, ModelError
from tasks.models.targets import load_target
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


# ----------------------------------------------------------------------------------- files of OpenAI, and of others


def script_of(files: TinyClip, path: Path, **facts: int) -> Path:
    """The weights as OpenAI publishes them: a TorchScript archive in half precision with facts of the model."""
    model = load(files).model.half()
    for name, value in facts.items():
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = (torch.zeros(1, 3, 16, 16, dtype=torch.half), torch.zeros(1, 8, dtype=torch.long))
        torch.jit.save(torch.jit.trace(model, inputs, check_trace=False), path)
    return path


FACTS = {"input_resolution": 16, "context_length": 8, "vocab_size": 49408}


@pytest.fixture
def quick(tmp_path: Path) -> TinyClip:
    """A small CLIP with OpenAI's activation."""
    files = make_clip(tmp_path / "quick")
    config = json.loads(files.config.read_text()) | {"quick_gelu": True}
    files.config.write_text(json.dumps(config))
    return files


def test_an_archive_as_openai_publishes_it_is_read(quick: TinyClip, tmp_path: Path) -> None:
    path = script_of(quick, tmp_path / "ViT.pt", **FACTS)
    clip, weights = load(TinyClip(quick.config, path)), load_file(quick.checkpoint)
    assert all(torch.equal(tensor, weights[name].half().float()) for name, tensor in clip.model.state_dict().items())
    assert any("float16" in note for note in clip.notes)
    assert on_cpu(clip).embed_texts(["red"]).shape == (1, 8)
    target = load_target(f"open_clip:{quick.config}", str(path))
    assert torch.equal(target.model.state_dict()["conv1.weight"], weights["visual.conv1.weight"].half().float())


def test_weights_of_openai_are_refused_with_another_activation(tiny_clip: TinyClip, tmp_path: Path) -> None:
    path = script_of(tiny_clip, tmp_path / "ViT.pt", **FACTS)
    with pytest.raises(CheckpointError, match=r"QuickGELU.*\"quick_gelu\": true"):
        load(TinyClip(tiny_clip.config, path))
    weights = load_file(tiny_clip.checkpoint) | {name: torch.tensor(value) for name, value in FACTS.items()}
    torch.save(weights, tmp_path / "converted.pt")
    with pytest.raises(CheckpointError, match="QuickGELU"):
        load(TinyClip(tiny_clip.config, tmp_path / "converted.pt"))


def test_the_architecture_with_openai_s_activation_is_named() -> None:
    weights = {name: torch.tensor(value) for name, value in FACTS.items()} | {"a": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"Name ViT-B-16-quickgelu\."):
        _refuse_other_activation("ViT-B-16", torch.nn.Linear(1, 1), Checkpoint("x.pt", weights))


def test_an_archive_that_is_not_of_openai_is_taken_as_it_is(tiny_clip: TinyClip, tmp_path: Path) -> None:
    path = script_of(tiny_clip, tmp_path / "mine.pt")
    assert load(TinyClip(tiny_clip.config, path)).model.visual.conv1.weight.dtype == torch.float32


def test_weights_under_other_keys_fit_and_a_key_chooses(tiny_clip: TinyClip, tmp_path: Path) -> None:
    weights = load_file(tiny_clip.checkpoint)
    others = load_file(make_clip(tmp_path / "other", seed=1).checkpoint)
    torch.save({"model": {"state_dict": weights}, "model_ema": others}, tmp_path / "both.pt")
    assert any("model_ema" in note for note in load(TinyClip(tiny_clip.config, tmp_path / "both.pt")).notes)
    target = load_target(f"open_clip:{tiny_clip.config}", str(tmp_path / "both.pt"), "model_ema")
    assert torch.equal(target.model.state_dict()["conv1.weight"], others["visual.conv1.weight"])


def test_a_checkpoint_beside_a_folder_is_not_left_out(tiny_clip: TinyClip, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    content = {"model_cfg": json.loads(tiny_clip.config.read_text()), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    (folder / "open_clip_model.safetensors").write_bytes(tiny_clip.checkpoint.read_bytes())
    other = make_clip(tmp_path / "other", seed=1).checkpoint
    clip = load_clip(f"local-dir:{folder}", str(other))
    assert torch.equal(clip.model.visual.conv1.weight, load_file(other)["visual.conv1.weight"])


# ------------------------------------------------------------------------------------------------------ tokenizers


@pytest.fixture
def needs_transformers(tiny_clip: TinyClip) -> TinyClip:
    config = json.loads(tiny_clip.config.read_text())
    config["text_cfg"] |= {"hf_tokenizer_name": "owner/tokenizer"}
    tiny_clip.config.write_text(json.dumps(config))
    return tiny_clip


def test_a_tokenizer_without_its_package_is_answered_with_the_command(
    needs_transformers: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"transformers.*pip install -e '\.\[transformers\]'"):
        load(needs_transformers)


def test_a_tokenizer_that_cannot_be_fetched_says_how_to_bring_it(
    needs_transformers: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AutoTokenizer:
        @classmethod
        def from_pretrained(cls, name: str, **more: Any) -> object:
            raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoTokenizer=AutoTokenizer))
    with pytest.raises(DownloadError, match=r"owner/tokenizer .*couldn't connect.*hf download owner/tokenizer"):
        load(needs_transformers)
