"""The embedded sample: a drawn world, a small CLIP trained on its captions, a small convnet to dissect.

Everything here is drawn or trained by this package (`python -m tasks.sample.train`), so a dissection can
be run, and its labels checked against the truth, with nothing downloaded.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent

CLIP_NAME = "clip-dissect-sample"
"""Name of the CLIP architecture once `open_clip.add_model_config(CLIP_CONFIG)` has been called."""
CLIP_CONFIG = _FOLDER / f"{CLIP_NAME}.json"  # open_clip names a model by its config file's stem
CLIP_WEIGHTS = _FOLDER / "clip.safetensors"
CLASSIFIER_WEIGHTS = _FOLDER / "network.safetensors"
CONCEPTS = _FOLDER / "concepts.txt"
CLASSES = _FOLDER / "classes.txt"
