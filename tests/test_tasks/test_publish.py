"""What a run hands out: tables that other tools read, and nothing stale."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tasks.announce import announcement
from tasks.label_tables import DEAD
from tasks.passes import Pass
from tasks.publish import PublishPlan, descriptions, plan_publication, publish
from tasks.published import DESCRIPTIONS, FILES, LABELS, REJECTS, REPORT, RUN, SPEC, TOP_IMAGES, read_run
from tasks.remember import remember
from tasks.spec import DissectSpec
from tests.test_tasks.conftest import Bench, labelled


def published(spec: DissectSpec) -> tuple[PublishPlan, dict[str, Any]]:
    plan = plan_publication(labelled(spec), spec)
    if not plan.is_done:
        publish.fn(plan)
    return plan, plan.out.read_json(RUN)


def is_done(spec: DissectSpec) -> bool:
    return plan_publication(labelled(spec), spec).is_done


@pytest.fixture
def bench(labelled_bench: Bench) -> Bench:
    """Labelled, as all that is published."""
    return labelled_bench


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_descriptions_have_exactly_the_columns_that_other_tools_read(bench: Bench, out: Path) -> None:
    published(bench.spec(out=str(out)))
    with (out / DESCRIPTIONS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "unit", "description", "similarity"]
    assert [(row["layer"], row["unit"], row["description"]) for row in rows[:5]] == [
        ("conv", "0", "red"),
        ("conv", "1", "green"),
        ("conv", "2", "blue"),
        ("conv", "3", DEAD),
        ("head", "0", "red"),
    ]
    assert all(float(row["similarity"]) is not None for row in rows)


def test_descriptions_hold_the_first_label_of_every_neuron_once() -> None:
    labels = pd.DataFrame(
        {
            "layer": ["a", "a", "a", "b"],
            "neuron": [0, 0, 1, 0],
            "rank": [1, 2, 1, 1],
            "concept": ["x", "y", DEAD, "z"],
            "similarity": [2.0, 1.0, 0.0, 3.0],
            "is_dead": [False, False, True, False],
        }
    )
    assert descriptions(labels).values.tolist() == [["a", 0, "x", 2.0], ["a", 1, DEAD, 0.0], ["b", 0, "z", 3.0]]


def test_top_images_name_images_by_their_paths(bench: Bench, out: Path) -> None:
    published(bench.spec(out=str(out), top_images=3))
    top = pd.read_parquet(out / TOP_IMAGES)
    assert {"layer", "neuron", "rank", "image", "activation"} <= set(top.columns)
    assert top.groupby(["layer", "neuron"]).size().tolist() == [3] * 8
    of_red = top[(top["layer"] == "head") & (top["neuron"] == 0)]
    assert of_red["image"].str.startswith("red/").all()
    assert all((bench.images / image).is_file() for image in top["image"])


def test_every_file_is_there_as_run_json_says(bench: Bench, out: Path) -> None:
    _, run = published(bench.spec(out=str(out)))
    pages = {str(path.relative_to(out)) for path in (out / "report").rglob("*.*")}
    assert set(run["files"]) == set(FILES) | pages and len(pages) == 8
    for name, written in run["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == written["sha256"]
    assert run["counts"] | {"images": 48, "rejects": 0, "concepts": 4} == run["counts"]
    assert run["layers"]["conv"]["dead"] == 1
    json.dumps(run, allow_nan=False)


def test_the_report_says_what_was_asked_for(bench: Bench, out: Path) -> None:
    published(bench.spec(out=str(out)))
    page = (out / "report/index.html").read_text()
    for name, value in (("Network", "tests.tiny_models:colours"), ("Summary function", "mean")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page


def test_the_written_spec_runs_the_same_again(bench: Bench, out: Path) -> None:
    spec = bench.spec(out=str(out), a=7.5)
    published(spec)
    assert DissectSpec(**yaml.safe_load((out / SPEC).read_text())) == spec


def test_a_second_publication_is_done(bench: Bench, out: Path) -> None:
    spec = bench.spec(out=str(out))
    published(spec)
    assert is_done(spec)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["removed", "edited"])
def test_a_harmed_file_is_published_again(bench: Bench, out: Path, name: str, harm: str) -> None:
    spec = bench.spec(out=str(out))
    published(spec)
    before = (out / name).read_bytes()
    if harm == "removed":
        (out / name).unlink()
    else:
        (out / name).write_bytes(before + b" ")
    assert not is_done(spec)
    published(spec)
    assert name == REPORT or (out / name).read_bytes() == before
    assert is_done(spec)


def test_a_torn_run_json_is_published_again(bench: Bench, out: Path) -> None:
    spec = bench.spec(out=str(out))
    published(spec)
    (out / RUN).write_text("{")
    assert not is_done(spec)


CHANGES: list[dict[str, Any]] = [
    {"top_images": 3},
    {"tau": "1.5"},
    {"ranks": 2},
    {"layers": ("head",)},
    {"layers": ("head", "conv")},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_is_published_again(bench: Bench, out: Path, change: dict[str, Any]) -> None:
    published(bench.spec(out=str(out)))
    assert not is_done(bench.spec(out=str(out), **change))


def test_refused_files_are_listed_with_reasons_and_noted(bench: Bench, out: Path) -> None:
    (bench.images / "page.png").write_bytes(b"<html>")
    _, run = published(bench.spec(out=str(out)))
    rejects = pd.read_parquet(out / REJECTS)
    assert rejects["path"].tolist() == ["page.png"]
    assert run["counts"]["rejects"] == 1
    assert any("1 files were refused" in note for note in run["notes"])


def test_images_left_out_are_noted_and_other_files_are_not(bench: Bench, out: Path) -> None:
    (bench.images / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (bench.images / "notes.txt").write_text("a dog")
    _, run = published(bench.spec(out=str(out)))
    (note,) = (note for note in run["notes"] if "left out" in note)
    assert note.startswith("1 other file was left out: .heic (HEIC) 1.") and "convert them to PNG or JPEG" in note


def test_a_file_that_is_refused_since_is_published(bench: Bench, out: Path) -> None:
    # The images are the same, so nothing else changes.
    spec = bench.spec(out=str(out), images_per_shard=1000)
    published(spec)
    (bench.images / "zlast.png").write_bytes(b"<html>")
    _, run = published(spec)
    assert run["counts"]["rejects"] == 1
    assert pd.read_parquet(out / REJECTS)["path"].tolist() == ["zlast.png"]


def test_a_lowered_k_is_noted_with_both_numbers(bench: Bench, out: Path) -> None:
    _, run = published(bench.spec(out=str(out), top_k=None))
    assert run["notes"] == ["K is lowered from 100 to 48: the probe set has 48 images."]


def test_blank_lines_of_the_concepts_are_noted(bench: Bench, out: Path) -> None:
    bench.concepts.write_text("red\n\ngreen\nblue\n\ngrey\n")
    _, run = published(bench.spec(out=str(out)))
    assert run["notes"] == ["2 blank lines of the concept list are no concepts."]


def test_accuracy_is_that_of_the_first_labels(bench: Bench, out: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("red\ngreen\nred\nmauve\n")
    _, run = published(bench.spec(out=str(out), truth=str(tmp_path / "truth.txt"), ranks=5))
    assert run["accuracy"]["layer"] == "head"
    assert run["accuracy"]["top1"] == 0.5
    assert run["accuracy"]["top5"] == 0.75


def test_a_formula_in_a_concept_is_not_run_by_a_spreadsheet(bench: Bench, out: Path) -> None:
    bench.concepts.write_text("=cmd()\ngreen\nblue\ngrey\n")
    published(bench.spec(out=str(out)))
    assert b"\n=cmd" not in (out / DESCRIPTIONS).read_bytes()
    assert b",=cmd" not in (out / DESCRIPTIONS).read_bytes()
    labels = pd.read_parquet(out / LABELS)
    assert "=cmd()" in set(labels["concept"])


def test_a_folder_without_a_run_says_so(tmp_path: Path, bench: Bench) -> None:
    plan = plan_publication(
        labelled(bench.spec(out=str(tmp_path / "empty"))), bench.spec(out=str(tmp_path / "empty"))
    )
    with pytest.raises(LookupError, match="is not the --out folder of a finished run"):
        read_run(plan.out)


def test_labels_above_the_cut_are_interpretable_and_a_dead_neuron_is_not(bench: Bench, out: Path) -> None:
    plan, run = published(bench.spec(out=str(out), tau="0.5"))
    labels = pd.read_parquet(out / LABELS)
    expected = (labels["similarity"] > 0.5) & ~labels["is_dead"]
    assert labels["interpretable"].tolist() == expected.tolist()
    first = labels[labels["rank"] == 1].groupby("layer")["interpretable"].sum()
    assert {layer: facts["interpretable"] for layer, facts in run["layers"].items()} == first.to_dict()
    assert run["tau"] == "0.5"
    # Nothing is labelled anew for another cut.
    above, run = published(bench.spec(out=str(out), tau="null:0.9"))
    assert above.labels.digest == plan.labels.digest
    labels = pd.read_parquet(out / LABELS)
    assert labels["interpretable"].tolist() == ((labels["null_quantile"] > 0.9) & ~labels["is_dead"]).tolist()
    assert not labels.loc[labels["is_dead"], "interpretable"].any()


@pytest.mark.parametrize(("similarity", "tau"), [("soft_wpmi", "0.16"), ("cos", "null:0.95")])
def test_the_default_cut_is_the_papers_for_its_similarity_and_the_null_for_others(
    bench: Bench, out: Path, similarity: str, tau: str
) -> None:
    _, run = published(bench.spec(out=str(out), similarity=similarity, top_k=None))
    assert run["tau"] == tau


def test_without_a_null_nobody_knows_what_is_above_it(bench: Bench, out: Path) -> None:
    _, run = published(bench.spec(out=str(out), similarity="cos", top_k=None, null_samples=0))
    assert run["layers"]["head"]["interpretable"] is None
    labels = pd.read_parquet(out / LABELS)
    assert labels.loc[~labels["is_dead"], "interpretable"].isna().all()


def test_ignored_activations_are_noted_with_their_images(bench: Bench, out: Path) -> None:
    spec = bench.spec(out=str(out), target="tests.tiny_models:nans", layers=("body",))
    _, run = published(spec)
    ignored = run["layers"]["body"]["activations_ignored"]
    assert ignored > 0
    assert any(
        f"{ignored} activations of body are NaN or infinite" in note and "red/" in note for note in run["notes"]
    )


def test_kept_similarities_are_found_by_run_json(bench: Bench, out: Path) -> None:
    _, run = published(bench.spec(out=str(out), keep_similarities=True))
    assert (Path(bench.store) / run["similarities"]).is_dir()
    assert published(bench.spec(out=str(out)))[1]["similarities"] is None


def test_what_people_are_shown_has_counts_rates_and_paths_to_copy(bench: Bench, out: Path) -> None:
    plan, _ = published(bench.spec(out=str(out)))
    remember(plan)
    assert "Images a second" not in announcement(plan.out)  # nothing passed over images
    seconds = {"decoding": 1.0}
    (out / RUN).unlink()
    publish.fn(plan, [Pass("images 0-9", 10, 2.0, seconds), Pass("images 10-13", 4, 0.004, seconds)])
    lines = announcement(plan.out).splitlines()
    assert "Images a second in a pass: 5 to 1,000 (2 passes)." in lines
    assert f"- Report: `{out}/report/index.html`" in lines  # marked, or an underscore would be taken for emphasis
    assert f"- Tables: `{out}/labels.parquet`, and beside it: `descriptions.csv`, " in "\n".join(lines)
    assert "(0 files refused)" in lines[2]
