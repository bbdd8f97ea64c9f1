"""The probe set and what the shipped models make of it, once for all tests."""

import pytest
import torch

from tasks.sample import CLASSIFIER_WEIGHTS, CLIP_WEIGHTS
from tasks.sample.evaluate import activations, image_embeddings, load_clip
from tasks.sample.network import target
from tasks.sample.train import drawings
from tasks.sample.world import PER_BLOCK


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Models and batches are small: on a loaded machine threads wait for each other longer than they work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def probe():
    """Pixels, uint8 [2400, 64, 64, 3], and scenes."""
    return drawings(PER_BLOCK, "probe")


@pytest.fixture(scope="session")
def clip():
    """The shipped CLIP and its preprocessing."""
    return load_clip(CLIP_WEIGHTS)


@pytest.fixture(scope="session")
def images(clip, probe):
    """Image embeddings of the probe set, float64 [2400, D]."""
    return image_embeddings(*clip, probe[0])


@pytest.fixture(scope="session")
def layers(probe):
    """Activations of each layer of the shipped network on the probe set, float64 [2400, N]."""
    return activations(target(CLASSIFIER_WEIGHTS)[0], probe[0])
