"""The shipped weights and word lists: small, loadable by anyone, and as good as the sample promises."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from tasks.dissection.similarity import soft_wpmi
from tasks.sample import CLASSES, CLASSIFIER_WEIGHTS, CLIP_CONFIG, CLIP_NAME, CLIP_WEIGHTS, CONCEPTS
from tasks.sample.evaluate import kind, naming_accuracy, text_embeddings, words
from tasks.sample.network import normalised, preprocess, target
from tasks.sample.shapes import SHAPES
from tasks.sample.world import CAPTIONS, PER_BLOCK, draw, scene


def _labels(clip, images, activations):
    """First labels under SoftWPMI as the paper sets it."""
    P = images @ text_embeddings(clip, words(CONCEPTS)).T
    return [words(CONCEPTS)[i] for i in soft_wpmi(P, activations).similarity.argmax(dim=1).tolist()]


def test_weights_are_small():
    assert CLIP_WEIGHTS.stat().st_size + CLASSIFIER_WEIGHTS.stat().st_size < 10e6


def test_classes_are_the_shapes_in_the_order_of_the_head():
    assert words(CLASSES) == list(SHAPES)


def test_concepts_are_what_captions_say():
    concepts = words(CONCEPTS)
    assert len(concepts) == len(set(concepts)) >= 100
    scenes = [vars(scene(index, "train")) for index in range(PER_BLOCK)]
    said = {template.format(**of) for template in CAPTIONS for of in scenes}
    assert set(concepts) <= said
    assert set(words(CLASSES)) <= set(concepts)


def test_no_caption_is_cut_by_the_context_length():
    open_clip.add_model_config(CLIP_CONFIG)
    tokenizer = open_clip.get_tokenizer(CLIP_NAME)
    scenes = [vars(scene(index, "train")) for index in range(0, PER_BLOCK, 7)]
    tokens = tokenizer([template.format(**of) for template in CAPTIONS for of in scenes])
    assert (tokens == tokenizer.eot_token_id).any(dim=1).all()
    longest = tokenizer(["a checkered turquoise mushroom on a cloudy turquoise background"], context_length=40)
    assert int((longest != 0).sum()) <= tokens.shape[1]


def test_the_network_names_shapes(layers, probe):
    right = layers["head"].argmax(dim=1) == torch.arange(PER_BLOCK) // 120
    assert right.double().mean() >= 0.97
    assert list(layers) == ["block1", "block2", "block3", "block4", "block5", "head"]


def test_target_takes_pil_pictures(layers):
    network, to_tensor = target()
    assert isinstance(network, nn.Module) and not network.training
    batch = torch.stack([to_tensor(Image.fromarray(draw(scene(index, "probe")))) for index in (3, 1800)])
    assert batch.shape == (2, 3, 64, 64) and batch.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(network(batch).double(), layers["head"][[3, 1800]], atol=1e-3, rtol=1e-3)


def test_preprocess_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"\(64, 64, 3\), got \(32, 64, 3\)"):
        preprocess(np.zeros((32, 64, 3), dtype=np.uint8))


def test_normalised_covers_minus_two_to_two():
    assert normalised(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-2, 2]


def test_clip_takes_drawings_as_they_are(clip, images):
    model, to_tensor = clip
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    picture = Image.fromarray(draw(scene(42, "probe")))
    with torch.no_grad():
        embedding = model.encode_image(to_tensor(picture)[None], normalize=True)
    torch.testing.assert_close(embedding[0].double(), images[42], atol=1e-4, rtol=0)


@pytest.mark.parametrize("field", ["shape", "colour", "texture", "background", "background_colour"])
def test_clip_knows_every_property(clip, images, probe, field):
    assert naming_accuracy(clip[0], images, probe[1], field) >= 0.95


def test_dissection_finds_the_classes_of_the_head(clip, images, layers):
    right = [a == b for a, b in zip(_labels(clip[0], images, layers["head"]), words(CLASSES), strict=True)]
    assert sum(right) >= 18  # the shipped weights get all 20


def test_dissection_of_shuffled_pictures_finds_nothing(clip, images, layers):
    found = []
    for seed in range(5):
        order = torch.randperm(PER_BLOCK, generator=torch.Generator().manual_seed(seed))
        labels = _labels(clip[0], images[order], layers["head"])
        found += [a == b for a, b in zip(labels, words(CLASSES), strict=True)]
    assert sum(found) <= 5  # of 100; one label in 174 is right by chance


def test_shapes_come_late_and_backgrounds_early(clip, images, layers):
    def share(layer, what):
        kinds = [kind(label) for label in _labels(clip[0], images, layers[layer])]
        return kinds.count(what) / len(kinds)

    assert share("head", "shape") > share("block5", "shape") > share("block2", "shape")
    assert share("block1", "background") > share("block5", "background")
