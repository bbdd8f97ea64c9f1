"""A run as a data set for others: whole or not at all, readable by their tools, and never over their files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import example, given
from hypothesis import strategies as st

from storage.errors import DamagedError, ForeignError
from storage.files import Folder, Written
from storage.tables import write_parquet
from tasks.dataset import CARD, MARKER, _explanations, _renamed, plan_dataset, publish_dataset
from tasks.dataset_card import name
from tasks.preflight import preflight
from tasks.publish import plan_publication, publish
from tasks.published import LABELS, RUN, TOP_IMAGES, read_run
from tests.object_store import ObjectStore
from tests.test_tasks.conftest import Bench, labelled

EXPLANATIONS = "explanations/CLIP-Dissect/colours-{}.csv"
FILES = {CARD, LABELS, "labels.csv", TOP_IMAGES, "top_images.csv", *map(EXPLANATIONS.format, ("conv", "head"))}


@pytest.fixture
def bench(labelled_bench: Bench) -> Bench:
    """Labelled, as all that is published."""
    return labelled_bench


@pytest.fixture
def out(bench: Bench, tmp_path: Path) -> Folder:
    """The folder of a run."""
    return run_in(tmp_path / "out", bench)


def run_in(folder: Path, bench: Bench, **changes: Any) -> Folder:
    spec = bench.spec(out=str(folder), **changes)
    publish.fn(plan_publication(labelled(spec), spec))
    return Folder.at(str(folder))


def put(out: Folder, url: str | Path, *, overwrite: bool = False) -> bool:
    """Publishes a run, and says whether there was something to do."""
    plan = plan_dataset(out, str(url), overwrite=overwrite)
    if not plan.is_done:
        publish_dataset.fn(plan)
    return not plan.is_done


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): (file.stat().st_ino, file.read_bytes()) for file in files}


@pytest.mark.parametrize("where", ["folder", "memory", "s3"])
def test_a_data_set_is_the_same_wherever_it_goes_and_going_again_does_nothing(
    out: Folder, where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = {"folder": str(tmp_path / "to"), "memory": f"memory://{tmp_path.name}/to"}
    store: ObjectStore | None = request.getfixturevalue("s3") if where == "s3" else None
    to = store.folder() / "to" if store else Folder.at(urls[where])
    assert put(out, to.url)
    assert {file.path for file in to.files()} == FILES | {MARKER}
    for table in (LABELS, TOP_IMAGES):
        assert to.read(table) == out.read(table)
    assert to.read("labels.csv") == out.read("labels.csv")
    vouched = to.read_json(MARKER)["files"]
    assert vouched.keys() == FILES
    assert vouched[LABELS] == out.read_json(RUN)["files"][LABELS]
    if store:
        store.fails()
    assert not put(out, to.url)
    assert not store or not [asked for asked in store.asked() if not asked.startswith(("GET ", "HEAD "))]


@pytest.mark.parametrize(
    ("layer", "file"),
    [
        ("layer4.2.conv3", "resnet50-layer4.2.conv3.csv"),
        ("conv/1", "resnet50-conv%2F1.csv"),
        ("conv_1", "resnet50-conv_1.csv"),
        ("sae[1]", "resnet50-sae%5B1%5D.csv"),
    ],
)
def test_cosy_finds_a_plain_layer_by_its_name_and_any_other_encoded(layer: str, file: str) -> None:
    run = {"spec": {"target": "torchvision:resnet50/DEFAULT"}}
    assert _explanations(run, layer) == f"explanations/CLIP-Dissect/{file}"


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
@example("conv/1", "conv_1")
@example("x" * 300, "x" * 301)
def test_two_layers_never_share_a_file_of_explanations(one: str, other: str) -> None:
    run = {"spec": {"target": "tests.tiny_models:größe"}}
    files = [_explanations(run, layer) for layer in (one, other)]
    assert (files[0] == files[1]) == (one == other)
    assert all(file.endswith(".csv") for file in files)


def test_a_file_of_explanations_of_the_longest_name_can_be_written(tmp_path: Path) -> None:
    name = _explanations({"spec": {"target": "torchvision:resnet50"}}, "ß/" * 200)
    Folder.at(str(tmp_path)).write(name, b"layer,unit")
    assert (tmp_path / name).read_bytes() == b"layer,unit"


def test_a_data_set_that_lacks_a_layer_of_no_plain_name_is_made_anew() -> None:
    plain, odd = (
        {"spec": {"target": "sample"}, "layers": ["conv.1"]},
        {"spec": {"target": "sample"}, "layers": ["a/1"]},
    )
    assert _renamed(plain) == {}  # the digest of a data set with plain names stays as it is
    assert _renamed(odd) == {"explanations": ["explanations/CLIP-Dissect/sample-a%2F1.csv"]}


def test_duckdb_reads_the_tables(out: Folder, tmp_path: Path) -> None:
    put(out, tmp_path / "to")
    table = f"'{tmp_path / 'to' / LABELS}'"
    found = duckdb.sql(f"SELECT concept FROM {table} WHERE layer = 'head' AND rank = 1 ORDER BY neuron").fetchall()
    assert [concept for (concept,) in found] == ["red", "green", "blue", "grey"]
    query = re.search(r"```sql\n(.*?)  --", (tmp_path / "to" / CARD).read_text(), re.DOTALL)
    assert query is not None
    counted = duckdb.sql(query[1].replace(f"'{LABELS}'", table)).fetchall()
    assert sum(count for _, _, count in counted) == 8


def test_the_card_has_a_configuration_for_each_table_and_leaves_the_licence_to_its_owner(
    out: Folder, bench: Bench, tmp_path: Path
) -> None:
    put(out, tmp_path / "to")
    card = DatasetCard.load(tmp_path / "to" / CARD)
    configs = {one["config_name"]: one for one in card.data.configs}
    assert {name: one["data_files"] for name, one in configs.items()} == {
        "labels": LABELS,
        "top_images": TOP_IMAGES,
    }
    assert configs["labels"]["default"] is True
    assert card.data.license is None and "\n# license: yours to choose" in (tmp_path / "to" / CARD).read_text()
    for told in ("tests.tiny\\_models:colours", "images: 48 images", "concepts.txt: 4", "top\\_k 5", "| 29 |"):
        assert told in card.text, told
    assert f"| head | 4 | 0 | {out.read_json(RUN)['layers']['head']['interpretable']} | 4 |" in card.text
    assert str(tmp_path) not in card.content and str(bench.images.parent) not in card.content


def test_names_of_others_folders_and_keys_stay_out_of_a_card() -> None:
    given = {
        "/home/ann/imagenet/val/": "val",
        "s3://bucket/images/a.tar?token=x": "a.tar",
        "torchvision:CIFAR10/test": "torchvision:CIFAR10/test",
        "ViT-B-16/openai": "ViT-B-16/openai",
        "local-dir:/home/ann/clip": "local-dir:clip",
        "common-20k": "common-20k",
    }
    assert {source: name(source) for source in given} == given


def test_cosy_finds_the_label_of_a_neuron(out: Folder, tmp_path: Path) -> None:
    put(out, tmp_path / "to")
    for layer, labels in {"head": ["red", "green", "blue", "grey"], "conv": ["red", "green", "blue"]}.items():
        table = pd.read_csv(tmp_path / "to" / EXPLANATIONS.format(layer))
        assert list(table.columns) == ["layer", "unit", "description", "similarity"]
        # As in load_explanations of CoSy's src/utils.py.
        found = [table.loc[table["unit"] == neuron, "description"].values[0] for neuron in range(len(labels))]
        assert found == labels


def test_a_table_that_a_run_has_besides_is_published_too_with_its_lists_as_json(out: Folder, tmp_path: Path) -> None:
    neurons = pd.DataFrame({"layer": ["head"], "neuron": [0], "counts": [[3, 45]]})
    written = write_parquet(out, "neurons.parquet", neurons)
    run = out.read_json(RUN)
    run["files"]["neurons.parquet"] = {"num_bytes": written.num_bytes, "sha256": written.sha256}
    out.write_json(RUN, run)
    put(out, tmp_path / "to")
    assert pd.read_csv(tmp_path / "to" / "neurons.csv")["counts"].map(json.loads).tolist() == [[3, 45]]
    front = yaml.safe_load((tmp_path / "to" / CARD).read_text().split("---\n")[1])
    assert {"config_name": "neurons", "data_files": "neurons.parquet"} in front["configs"]


@pytest.mark.parametrize("file", sorted(FILES))
def test_somebody_else_s_file_stays_unless_it_is_to_be_written_over(out: Folder, tmp_path: Path, file: str) -> None:
    theirs = tmp_path / "to" / file
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(ForeignError, match=rf"to holds {re.escape(file)}, which no run .*--overwrite"):
        put(out, tmp_path / "to")
    assert contents(tmp_path / "to").keys() == {file} and theirs.read_text() == "theirs"
    assert put(out, tmp_path / "to", overwrite=True)
    assert theirs.read_bytes() != b"theirs" and not put(out, tmp_path / "to")


def test_a_run_that_would_meet_somebody_else_s_file_does_not_begin(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / CARD).write_text("theirs")
    with pytest.raises(ForeignError, match=r"README.md, which no run has published"):
        preflight(bench.spec(publish=str(tmp_path / "to")))
    (tmp_path / "to" / CARD).unlink()
    preflight(bench.spec(publish=str(tmp_path / "to")))


def test_a_data_set_does_not_go_where_a_run_has_its_tables(out: Folder, bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ForeignError, match=r"is the --out folder of a run"):
        put(out, out.url, overwrite=True)
    with pytest.raises(ForeignError, match=r"is the --out folder of a run"):
        preflight(bench.spec(out=str(tmp_path / "new"), publish=out.url))
    with pytest.raises(ForeignError, match=r"are one folder"):
        preflight(bench.spec(out=str(tmp_path / "new"), publish=f"{tmp_path}/new/"))
    assert read_run(out) and not out.is_file(CARD)


def test_another_run_takes_the_place_of_the_first_and_leaves_other_files_alone(
    out: Folder, bench: Bench, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    put(out, to)
    (to / "LICENSE").write_text("theirs")
    put(run_in(tmp_path / "second", bench, layers=("head",)), to)
    assert contents(to).keys() == FILES - {EXPLANATIONS.format("conv")} | {MARKER, "LICENSE"}
    assert set(pd.read_csv(to / "labels.csv")["layer"]) == {"head"}


def test_a_card_that_was_edited_stays_as_it_is(out: Folder, bench: Bench, tmp_path: Path) -> None:
    to = tmp_path / "to"
    put(out, to)
    (to / CARD).write_text((to / CARD).read_text().replace("# license: yours", "license: cc0-1.0  # yours"))
    before = contents(to)
    assert not put(out, to)
    with pytest.raises(ForeignError, match=r"README.md.*changed since"):
        put(run_in(tmp_path / "second", bench, layers=("head",)), to)
    assert contents(to) == before


def test_a_table_that_was_removed_is_published_again(out: Folder, tmp_path: Path) -> None:
    put(out, tmp_path / "to")
    (tmp_path / "to" / LABELS).unlink()
    assert put(out, tmp_path / "to")
    assert (tmp_path / "to" / LABELS).read_bytes() == out.read(LABELS)


def test_one_that_was_killed_on_the_way_is_not_whole_and_goes_on(
    out: Folder, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, write = tmp_path / "to", Folder.write
    put(run_in(tmp_path / "second", bench, top_images=3), to)

    def killed_at_the_card(self: Folder, file: str, data: bytes) -> Written:
        if file == CARD:
            raise KeyboardInterrupt
        return write(self, file, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", killed_at_the_card)
        with pytest.raises(KeyboardInterrupt):
            put(out, to)
    assert json.loads((to / MARKER).read_text())["digest"] is None
    assert put(out, to) and not put(out, to)
    assert {file: (to / file).read_bytes() for file in (LABELS, TOP_IMAGES)} == {
        file: out.read(file) for file in (LABELS, TOP_IMAGES)
    }


def test_a_marker_of_somebody_else_s_is_no_data_set(out: Folder, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / MARKER).write_text('{"digest": "x"}')
    with pytest.raises(ForeignError, match=MARKER):
        put(out, tmp_path / "to")


def test_a_run_whose_table_was_edited_is_not_published(out: Folder, tmp_path: Path) -> None:
    write_parquet(out, TOP_IMAGES, pd.read_parquet(out.path(TOP_IMAGES)).head(3))
    with pytest.raises(DamagedError, match=r"top_images.parquet is not as it was written: it has"):
        put(out, tmp_path / "to")
    assert not (tmp_path / "to").exists()
