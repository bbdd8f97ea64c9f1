"""What another machine changes: the sample with all instructions of this processor, and with those of one of 2008.

`python -m tests.benchmarks.instructions`; the last line is one JSON object. The libraries choose other code for other
processors, which sums in another order, so that last digits differ; here they are told to choose that of an old one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from tests.conftest import REPO

#: What torch, oneDNN, MKL and numba are told.
OLD = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "NUMBA_CPU_NAME": "nehalem",
}


def dissected(folder: Path, images: Path, environment: dict[str, str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Labels of the sample, and all embeddings and activations by name."""
    command = [sys.executable, "-m", "flows", "run", "--target", "sample", "--layers", "block*,head"]
    command += ["--probe", str(images), "--concepts", "sample", "--clip", "sample"]
    command += ["--store", str(folder / "store"), "--out", str(folder / "out")]
    subprocess.run(command, cwd=REPO, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    groups = [*folder.glob("store/embeddings/*.zarr"), *folder.glob("store/activations/*[0-9a-f].zarr")]
    arrays = {name: array[:] for group in groups for name, array in zarr.open_group(group, mode="r").arrays()}
    return pd.read_parquet(folder / "out" / "labels.parquet"), arrays


def main() -> None:
    """Runs the sample twice, and compares."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        command = [sys.executable, "-m", "flows", "sample", str(folder / "images")]
        subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.DEVNULL)
        labels, arrays = dissected(folder / "here", folder / "images", {})
        old_labels, old_arrays = dissected(folder / "old", folder / "images", OLD)
    scales = []
    for name, array in arrays.items():
        old = old_arrays[name]
        scales.append(float(np.abs(array - old).max() / np.abs(array).max()))
        print(f"{name:<12} {(array != old).mean():.0%} differ, by at most {scales[-1]:.1e} of the largest")
    figures = {
        "largest_relative_difference": max(scales),
        "largest_difference_of_similarity": float(np.abs(labels["similarity"] - old_labels["similarity"]).max()),
        "labels": len(labels),
        "labels_that_differ": int((labels["concept"] != old_labels["concept"]).sum()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
