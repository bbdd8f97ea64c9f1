"""The whole run on a tiny network whose neurons are known, and what a second run does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from distributed import LocalCluster
from PIL import Image

from storage.errors import DamagedError
from tasks.published import DETAILS
from tasks.sample.draw import write_probe

Run = Callable[..., dict[str, int]]
TABLES = ("labels.parquet", "labels.csv", "descriptions.csv", "top_images.parquet", "rejects.parquet", *DETAILS)
NOTHING = {"shard": 0, "embed concepts": 0, "embed and record": 0, "label": 0, "details": 0, "publish": 0}


def labelling(num_layers: int) -> dict[str, int]:
    """What is done to label so many layers of 4 neurons: with null neurons each of the 48 images counts."""
    neurons = 4 * num_layers
    return {"top images": neurons, "softmax": 48 * num_layers, "score": 4 * neurons, "label": neurons}


def detailing(num_layers: int) -> dict[str, int]:
    """What is done to detail so many layers of 4 neurons."""
    return dict.fromkeys(("histograms", "details"), 4 * num_layers)


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


def test_neurons_get_the_colours_they_look_for(run: Run, tiny: dict[str, Any], tmp_path: Path) -> None:
    done = run(**tiny)
    out = tmp_path / "out"
    labels = pd.read_parquet(out / "labels.parquet")
    first = labels[labels["rank"] == 1].set_index(["layer", "neuron"])["concept"]
    assert first["head"].tolist() == ["red", "green", "blue", "grey"]
    assert first["conv"].tolist()[3] == "(dead)"
    assert labels["similarity"].notna().all() and labels["is_dead"].sum() == 1
    assert done == {"shard": 48, "embed concepts": 4, "embed and record": 48, "publish": 1} | labelling(
        2
    ) | detailing(2)

    described = pd.read_csv(out / "descriptions.csv")
    assert list(described.columns) == ["layer", "unit", "description", "similarity"]
    top = pd.read_parquet(out / "top_images.parquet")
    assert top.loc[(top["layer"] == "head") & (top["neuron"] == 0), "image"].str.startswith("red/").all()
    facts = json.loads((out / "run.json").read_text())
    assert facts["accuracy"]["top1"] == 1.0 and facts["layers"]["conv"]["dead"] == 1
    assert list(facts["layers"]) == ["conv", "head"]
    assert "red/" in (out / "report" / "data" / "images-0.js").read_text()


def test_a_second_run_does_nothing(run: Run, finished: dict[str, Any], tmp_path: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run(**finished) == NOTHING
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written


@pytest.mark.usefixtures("one_flow_run")
def test_a_run_goes_on_where_a_stage_ended(run: Run, finished: dict[str, Any], tmp_path: Path) -> None:
    before = tables(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert run(**finished) == NOTHING | {"publish": 1}
    assert tables(tmp_path / "out") == before


@pytest.mark.usefixtures("one_flow_run")
@pytest.mark.usefixtures("one_flow_run")
def test_a_run_puts_its_tables_where_others_find_them(run: Run, finished: dict[str, Any], tmp_path: Path) -> None:
    given = finished | {"publish": str(tmp_path / "to")}
    assert run(**given) == NOTHING | {"data set": 1}
    assert (tmp_path / "to" / "labels.csv").read_bytes() == (tmp_path / "out" / "labels.csv").read_bytes()
    counts = pd.read_csv(tmp_path / "to" / "neurons.csv")["counts"].map(json.loads)
    assert counts.map(sum).tolist() == [48] * 8
    assert run(**given) == NOTHING | {"data set": 0}


def test_a_damaged_table_is_published_anew(run: Run, finished: dict[str, Any], tmp_path: Path) -> None:
    before = tables(tmp_path / "out")
    (tmp_path / "out" / "labels.csv").write_text("mine now")
    assert run(**finished) == NOTHING | {"publish": 1}
    assert tables(tmp_path / "out") == before


@pytest.mark.usefixtures("one_flow_run")
def test_the_written_spec_gives_the_same_run(run: Run, finished: dict[str, Any]) -> None:
    written = yaml.safe_load((Path(finished["out"]) / "spec.yaml").read_text())
    assert run(**(written | {"store": finished["store"], "out": finished["out"]})) == NOTHING


@pytest.mark.usefixtures("one_flow_run")
@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"summary": "max"}, {"embed and record": 48, "publish": 1} | labelling(2) | detailing(2)),
        ({"layers": ("conv", "relu", "head")}, {"embed and record": 48, "publish": 1} | labelling(1) | detailing(1)),
        ({"layers": ("head",)}, {"publish": 1}),
        ({"a": 5.0}, {"publish": 1} | labelling(2)),
        (
            {"target": "tests.tiny_models:colours_with_function"},
            {"embed and record": 48, "publish": 1} | labelling(2) | detailing(2),
        ),
        ({"prompt": "a {} thing"}, {"embed concepts": 4, "publish": 1} | labelling(2)),
        ({"truth": None}, {"publish": 1}),
        ({"top_images": 3}, {"publish": 1}),
        ({"tau": "null:0.9"}, {"publish": 1}),
        ({"details": "all"}, {"publish": 1} | detailing(2)),
        ({"memory": 0.01}, {}),
        ({"null_samples": 20}, {"publish": 1} | labelling(2)),
        ({"batch_size": 7}, {}),
    ],
    ids=str,
)
def test_a_change_redoes_what_depends_on_it(
    change: dict[str, Any], redone: dict[str, int], run: Run, finished: dict[str, Any]
) -> None:
    assert run(**(finished | change)) == NOTHING | redone


TORN = (
    "store.json",
    "probes/*/manifest.json",
    "probes/*/rejects.parquet",
    "embeddings/*.done/*.json",
    "activations/*.done/head/*.json",
    "concepts/*/*.parquet",
    "labels/*/head/labels.parquet",
    "labels/*/head/top_images.parquet",
    "labels/*/head/done.json",
    "details/*/head/neurons.parquet",
    "details/*/head/done.json",
)


@pytest.mark.usefixtures("one_flow_run")
@pytest.mark.parametrize("kind", TORN)
def test_a_torn_file_of_the_store_is_named_and_the_way_out_works(
    kind: str, run: Run, finished: dict[str, Any]
) -> None:
    before = tables(Path(finished["out"]))
    file = next(Path(finished["store"]).glob(kind))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    shutil.rmtree(finished["out"])  # has to be published anew, from what is stored
    with pytest.raises(DamagedError, match=r"emove .*and run again") as caught:
        run(**finished)
    assert str(file) in str(caught.value)
    if "Remove the folder" in str(caught.value):
        shutil.rmtree(file.parent)
    else:
        file.unlink()
    run(**finished)
    assert tables(Path(finished["out"])) == before


@pytest.mark.usefixtures("one_flow_run")
def test_changed_images_are_seen(run: Run, tiny: dict[str, Any], images: Path) -> None:
    run(**tiny)
    Image.fromarray(np.full((20, 24, 3), 200, np.uint8)).save(images / "red" / "01.png")
    done = run(**tiny)
    assert done["shard"] == 48 and done["embed and record"] == 48


@pytest.fixture(scope="module")
def _one_cluster() -> Iterator[None]:
    """What `--workers` starts is started once for all tests: its processes take long to import what they need."""
    made: dict[str, LocalCluster] = {}
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def kept(**how: Any) -> Iterator[LocalCluster]:
            if str(how) not in made:
                made[str(how)] = stack.enter_context(LocalCluster(**how))
            yield made[str(how)]

        patch.setattr("distributed.LocalCluster", kept)
        yield


@pytest.mark.usefixtures("_one_cluster")
@pytest.mark.parametrize(
    "settings", [{"images_per_shard": 7}, {"batch_size": 5}, {"workers": 2}, {"store": "memory://store"}], ids=str
)
def test_tables_do_not_depend_on_how_and_where_the_work_is_done(
    settings: dict[str, Any], run: Run, base: dict[str, Any], tmp_path: Path
) -> None:
    own = {"store": str(tmp_path / "store"), "out": str(tmp_path / "out")}
    assert run(**(base | own | settings))["label"] == 8
    assert tables(tmp_path / "out") == tables(Path(base["out"]))


@pytest.mark.usefixtures("one_flow_run")
@pytest.mark.parametrize("similarity", ["wpmi", "rank_reorder", "cos", "cos_cubed"])
@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_every_similarity_labels(similarity: str, variant: str, run: Run, finished: dict[str, Any]) -> None:
    settings = {"similarity": similarity, "variant": variant, "top_k": 8 if similarity == "wpmi" else None}
    if similarity == "rank_reorder":
        settings["top_fraction"] = 0.5
    done = labelling(2)
    if "wpmi" not in similarity:
        del done["softmax"]
    assert run(**(finished | settings)) == NOTHING | {"publish": 1} | done
    labels = pd.read_parquet(Path(finished["out"]) / "labels.parquet")
    assert np.isfinite(labels["similarity"]).all()
    assert len(labels[labels["layer"] == "head"]) == 4 * 4


def test_a_clip_model_embeds_the_same_in_shards_of_any_size(
    run: Run, finished: dict[str, Any], tmp_path: Path
) -> None:
    write_probe(tmp_path / "drawn", 12)
    (tmp_path / "six.txt").write_text("circle\nstar\nring\nblue\nstriped\nred background\n")
    own = {
        "probe": str(tmp_path / "drawn"),
        "concepts": str(tmp_path / "six.txt"),
        "clip": "sample",
        "image_embeddings": None,
        "concept_embeddings": None,
        "truth": None,
    }
    run(**(finished | own))
    before = tables(tmp_path / "out")
    elsewhere = {"store": str(tmp_path / "other"), "out": str(tmp_path / "other-out")}
    run(**(finished | own | elsewhere | {"images_per_shard": 9}))
    assert tables(tmp_path / "other-out") == before
