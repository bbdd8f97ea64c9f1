"""Training, on a handful of drawings: the losses mean what they say and weights come back from disk."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from tasks.sample.contrast import Captioner, contrastive_loss, facts, train_clip
from tasks.sample.evaluate import load_clip
from tasks.sample.network import target
from tasks.sample.train import drawings, main, save_halved, train_network
from tasks.sample.world import CAPTIONS, scene


@pytest.fixture(scope="module")
def few():
    return drawings(128, "train")


def test_the_loss_with_one_right_answer_each_is_that_of_clip():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(6, 4), dim=1) for _ in range(2))
    logits = 20 * texts @ images.T
    plain = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, torch.eye(6, dtype=torch.bool), 20.0), plain)


def test_a_caption_true_of_two_pictures_is_content_with_both():
    images = torch.eye(3)
    texts = F.normalize(torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]), dim=1)
    true = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    best = contrastive_loss(images, texts, true, 50.0)
    assert best == pytest.approx(2 / 3 * np.log(2), abs=1e-6)
    assert contrastive_loss(images, images, true, 50.0) > best


def test_captions_are_true_of_exactly_the_pictures_they_could_have_been_written_for():
    scenes = [scene(index, "train") for index in range(0, 2400, 40)]
    captioner = Captioner(scenes, np.random.default_rng(0))
    tokens, true = captioner(torch.arange(60))
    possible = [{template: template.format(**vars(of)) for template in CAPTIONS} for of in scenes]
    words = captioner._tokens
    for caption, row in zip(tokens, true, strict=True):
        for of, is_true in zip(possible, row.tolist(), strict=True):
            assert any(torch.equal(words(text)[0], caption) for text in of.values()) == is_true


def test_facts_tell_values_apart():
    scenes = [scene(index, "train") for index in range(240)]
    numbers = facts(scenes)
    assert numbers.shape == (240, 5)
    for i, j in ((0, 1), (0, 12), (5, 200)):
        same = [
            getattr(scenes[i], field) == getattr(scenes[j], field)
            for field in ("shape", "colour", "texture", "background", "background_colour")
        ]
        assert (numbers[i] == numbers[j]).tolist() == same


def test_training_is_repeatable_and_its_weights_come_back(few, tmp_path):
    networks = [train_network(*few, epochs=1) for _ in range(2)]
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
    save_halved(networks[0], tmp_path / "network.safetensors")
    back, _ = target(tmp_path / "network.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]
    torch.testing.assert_close(back.head.weight, networks[0].head.weight.half().float())


def test_clip_trains_and_loads_through_open_clip(few, tmp_path):
    trained = train_clip(*few, naming_epochs=1, epochs=1)
    save_halved(trained, tmp_path / "clip.safetensors")
    back, _ = load_clip(tmp_path / "clip.safetensors")
    torch.testing.assert_close(back.token_embedding.weight, trained.token_embedding.weight.half().float())
    assert back.logit_scale.detach().exp().item() == pytest.approx(100, rel=1e-3)


def test_the_command_trains_writes_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.sample.train.PER_BLOCK", 240)
    few = ["--num-images", "128", "--num-threads", "1"]
    short = ["--naming-epochs", "1", "--clip-epochs", "1", "--network-epochs", "1"]
    result = CliRunner().invoke(main, ["--out", str(tmp_path), *few, *short])
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"clip.safetensors", "network.safetensors"}
    assert "head neurons labelled with their class, true pictures:" in result.output
    assert "block1 (16 neurons):" in result.output
