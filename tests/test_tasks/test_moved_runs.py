"""Runs and stores that were moved, together and alone: every command finds them, and a rerun mends what they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from flows.__main__ import cli
from storage.collect import collect
from storage.errors import IncompleteError
from storage.files import Folder
from storage.layout import Store
from storage.runs import known, record, recorded
from storage.verify import verify
from tasks.finished import FinishedRun
from tasks.publish import PublishPlan, plan_publication, publish
from tasks.published import RUN, read_run
from tasks.remember import remember
from tasks.spec import DissectSpec
from tests.test_tasks.conftest import Bench, labelled

#: Each command that opens a run, and what it says when it has done so.
COMMANDS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "evaluate": (lambda out: ["evaluate", str(out), "--bootstrap", "9"], "mean_rank|Mean rank|rank"),
    "without truth": (
        lambda out: ["evaluate", str(out), "--without-truth", "--layer", "head", "--bootstrap", "9"],
        "By chance",
    ),
    "report": (lambda out: ["report", str(out)], "Report: "),
    "rate": (lambda out: ["rate", str(out), "--neurons", "1"], "rate.html"),
    "study": (
        lambda out: ["study", "similarities", str(out), "--similarities", "cos,wpmi", "--layers", "head"],
        "Written",
    ),
    "compare": (lambda out: ["compare", str(out), str(out)], "The parameters are the same"),
    "show": (lambda out: ["show", str(out)], "head: 4 neurons"),
    "publish": (lambda out: ["publish", str(out), f"{out}-for-others"], "Data set: "),
}


def published(spec: DissectSpec) -> PublishPlan:
    plan = plan_publication(labelled(spec), spec)
    remember(plan)
    if not plan.is_done:
        publish.fn(plan)
    return plan


def moved(spec: DissectSpec, to: Path) -> DissectSpec:
    """The same, of a project that lies in another folder now."""
    fields = ("store", "out", "image_embeddings", "concepts", "concept_embeddings", "truth")
    changes: dict[str, Any] = {name: str(to / Path(getattr(spec, name)).name) for name in fields}
    return spec.model_copy(update=changes | {"probe": (str(to / "images"),)})


@pytest.fixture
def spec(labelled_bench: Bench) -> DissectSpec:
    """Of a run that is published beside its store and its inputs, in one folder."""
    folder = labelled_bench.images.parent
    spec = labelled_bench.spec(out=str(folder / "out"), truth=str(labelled_bench.concepts), keep_similarities=True)
    published(spec)
    return spec


@pytest.fixture
def project(spec: DissectSpec) -> Path:
    return Path(spec.store).parent


def run(arguments: list[str]) -> str:
    done = CliRunner().invoke(cli, arguments, obj={"debug": False})
    assert done.exit_code == 0, done.output
    return done.output


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".parquet", ".csv")}


def test_every_command_finds_the_store_of_a_project_that_was_moved(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "project2"
    elsewhere.parent.mkdir()
    project.rename(elsewhere)
    for arguments, said in COMMANDS.values():
        output = run(arguments(elsewhere / "out"))
        assert any(word in output for word in said.split("|")), output
    assert not project.exists()


def test_every_command_takes_the_store_where_it_is_now(project: Path) -> None:
    (project / "store").rename(project / "renamed")
    for name, (arguments, said) in COMMANDS.items():
        if name != "report":  # with which the run remembers it
            output = run([*arguments(project / "out"), "--store", str(project / "renamed")])
            assert any(word in output for word in said.split("|")), output
    assert not (project / "store").exists()


def test_a_store_that_is_not_the_run_s_is_refused(project: Path) -> None:
    Store.at(str(project / "another"))
    for arguments, _ in COMMANDS.values():
        done = CliRunner().invoke(cli, [*arguments(project / "out"), "--store", str(project / "another")])
        assert done.exit_code == 1, done.output
        assert "does not have it: there is no" in " ".join(done.output.split())


def test_the_report_remembers_the_store_that_it_was_given(project: Path) -> None:
    (project / "store").rename(project / "renamed")
    with pytest.raises(IncompleteError, match=r"which is not there .*store/probes.*--store URL.*run again"):
        FinishedRun.at(str(project / "out")).store.root  # noqa: B018
    run(["report", str(project / "out"), "--store", str(project / "renamed")])
    assert FinishedRun.at(str(project / "out")).plan.store.root.url == str(project / "renamed")
    run(["report", str(project / "out")])


def test_a_rerun_with_the_store_where_it_is_now_mends_the_run(spec: DissectSpec, project: Path) -> None:
    out, before = project / "out", tables(project / "out")
    passes = read_run(Folder.at(str(out)))
    (project / "store").rename(project / "renamed")
    again = spec.model_copy(update={"store": str(project / "renamed")})
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert not plan_publication(labelled(again), again).is_done
    published(again)
    assert tables(out) == before
    changed = {path.name for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert changed == {RUN, "spec.yaml"}  # nothing is published anew
    facts = read_run(Folder.at(str(out)))
    assert facts["store"] == str(project / "renamed") and facts["store_from_here"] == "../renamed"
    assert facts["seconds"] == passes["seconds"] and DissectSpec(**facts["spec"]) == again
    assert DissectSpec(**yaml.safe_load((out / "spec.yaml").read_text())) == again
    assert plan_publication(labelled(again), again).is_done
    assert FinishedRun.at(str(out)).plan.digest == facts["digests"]["labels"]
    assert not verify(str(project / "renamed"), [str(out)], jobs=1).problems


def test_a_run_whose_project_was_copied_and_the_original_removed_is_whole(
    spec: DissectSpec, project: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    shutil.rmtree(project)
    again = moved(spec, copy)
    store = Store.existing(again.store)
    assert [(one.shown(store), one.state(store)) for one in known(store, [])] == [(str(copy / "out"), "published")]
    assert not verify(again.store, jobs=1).problems
    assert FinishedRun.at(str(copy / "out")).concepts == ("red", "green", "blue", "grey")
    # The files of a copy are of another time, so they are packed anew; their bytes are the same.
    assert published(again).labels.digest == read_run(Folder.at(str(copy / "out")))["digests"]["labels"]
    assert plan_publication(labelled(again), again).is_done
    assert len(recorded(store)) == 1


def test_a_run_that_was_moved_alone_finds_its_store(spec: DissectSpec, project: Path, tmp_path: Path) -> None:
    (project / "out").rename(tmp_path / "archived")
    assert FinishedRun.at(str(tmp_path / "archived")).plan.store.root.url == spec.store
    run(["report", str(tmp_path / "archived")])


def test_files_named_from_the_working_directory_are_found_where_it_was_moved_to(
    labelled_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = labelled_bench.images.parent
    monkeypatch.chdir(project)
    published(labelled_bench.spec(store="store", out="out", concepts="concepts.txt"))
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "project2")
    found = FinishedRun.at("project2/out")
    assert found.spec.concepts == str(tmp_path / "project2" / "concepts.txt")
    assert found.spec.image_embeddings == str(tmp_path / "project2" / "image_embeddings.npy")
    assert found.plan.digest == found.facts["digests"]["labels"]
    # Another list in the place of the one that the run was made of is seen as another.
    (tmp_path / "project2" / "concepts.txt").write_text("red\ngreen\nblue\ngray\n")
    with pytest.raises(ValueError, match="has changed since"):
        FinishedRun.at("project2/out").plan  # noqa: B018


def test_a_run_by_an_older_version_is_read_and_mended(spec: DissectSpec, project: Path) -> None:
    out = Folder.at(spec.out or "")
    facts = read_run(out)
    old = {
        name: value for name, value in facts.items() if name not in ("store", "store_from_here", "folder_from_here")
    }
    store = Store.existing(spec.store)
    old |= {"probe": store.probe(facts["probe"].rpartition("/")[2]).url}
    old |= {"similarities": store.similarities(facts["digests"]["labels"])}
    out.write_json(RUN, old)
    assert plan_publication(labelled(spec), spec).is_done and FinishedRun.at(out.url).plan
    assert "similarities" not in run(["evaluate", out.url, "--bootstrap", "9"])
    (project / "store").rename(project / "renamed")
    with pytest.raises(IncompleteError, match="--store URL"):
        FinishedRun.at(out.url).probe  # noqa: B018
    assert FinishedRun.at(out.url, str(project / "renamed")).plan
    published(spec.model_copy(update={"store": str(project / "renamed")}))
    assert read_run(out)["store_from_here"] == "../renamed"


def test_a_record_by_an_older_version_is_read_and_replaced(spec: DissectSpec) -> None:
    store = Store.existing(spec.store)
    [one] = recorded(store)
    store.runs().folder.remove_file(f"{one.name}.json")
    old = replace(one, out=spec.out or "", url="")
    record(store, old)
    assert [run.state(store) for run in recorded(store)] == ["published"]
    assert not verify(spec.store, jobs=1).problems
    published(spec)
    assert [run.out for run in recorded(store)] == ["../out"]


def test_a_store_that_was_moved_alone_and_used_again_lists_a_run_once(spec: DissectSpec, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    Path(spec.store).rename(tmp_path / "far" / "store")
    store = Store.existing(str(tmp_path / "far" / "store"))
    [one] = known(store, [])
    assert one.state(store) == "published" and one.shown(store) == spec.out
    published(spec.model_copy(update={"store": store.root.url}))
    assert [run.state(store) for run in known(store, [])] == ["published"]
    with pytest.raises(IncompleteError, match="is there"):
        collect(store, forget=[spec.out or ""])
    shutil.rmtree(spec.out or "")
    assert len(collect(store, forget=[spec.out or ""]).runs) == 0
