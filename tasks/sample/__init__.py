"""The embedded sample: a drawn world, a small CLIP trained on its captions, a small convnet to dissect.

Everything here is drawn or trained by this package (`python -m tasks.sample.train`), so a dissection can
be run, and its labels checked against the truth, with nothing downloaded.

The concepts name a shape, or colours, textures and backgrounds, never a shape and its colour together.
SoftWPMI with λ = 1 is at most log N, and every concept that fits one neuron of a layer alone comes within
rounding of it: among "star", "red star" and "blue star" the first label of a star neuron would be chance.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent

CLIP_NAME = "clip-dissect-sample"
"""Name of the CLIP architecture once `open_clip.add_model_config(CLIP_CONFIG)` has been called."""
CLIP_CONFIG = _FOLDER / f"{CLIP_NAME}.json"  # open_clip names a model by its config file's stem
CLIP_WEIGHTS = _FOLDER / "clip.safetensors"
CLASSIFIER_WEIGHTS = _FOLDER / "network.safetensors"
CONCEPTS = _FOLDER / "concepts.txt"  # one to a line
CLASSES = _FOLDER / "classes.txt"  # names of the neurons of the network's `head`, in their order
