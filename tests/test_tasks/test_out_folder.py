"""A run replaces its own files in --out, also half-written ones, and nobody else's unasked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.errors import ForeignError
from storage.files import Folder
from tasks.out_folder import BEGUN, foreign_files, refuse_foreign_files
from tasks.preflight import preflight
from tasks.publish import plan_publication, publish, republish_report
from tasks.published import DETAILS, FILES, RUN
from tasks.remember import remember
from tasks.spec import DissectSpec
from tests.test_tasks.conftest import Bench, labelled


@pytest.fixture
def bench(labelled_bench: Bench) -> Bench:
    return labelled_bench


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def spec_of(bench: Bench, out: Path, **changes: Any) -> DissectSpec:
    return bench.spec(out=str(out), **changes)


def published(spec: DissectSpec) -> None:
    plan = plan_publication(labelled(spec), spec)
    remember(plan)
    publish.fn(plan)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    ["labels.csv", "neurons.parquet", "report.html", "spec.yaml", "report/index.html", "report/layers/0-a.html", RUN],
)
def test_a_file_of_somebody_else_s_is_refused_by_name_before_any_image_is_read(
    bench: Bench, out: Path, name: str
) -> None:
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(ForeignError, match=rf"holds {name}, which no run has written.*replace it.*--overwrite"):
        preflight(spec_of(bench, out, probe="/no/such/folder"))
    spec = spec_of(bench, out)
    plan = plan_publication(labelled(spec), spec)
    remember(plan)  # a record says that a run goes here, not that this is its file
    with pytest.raises(ForeignError, match=name):
        publish.fn(plan)
    assert files(out) == {name: b"mine"}


def test_files_that_no_table_would_replace_stay_and_do_not_matter(bench: Bench, out: Path) -> None:
    mine = ("notes.txt", "report/mine.html", "report/data/mine.js", "studies/x.csv", "labels.csv.bak")
    for name in mine:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    spec = spec_of(bench, out)
    preflight(spec)
    published(spec)
    assert all((out / name).read_text() == "mine" for name in mine)
    preflight(spec)


def test_overwrite_replaces_them_and_is_not_written_down(bench: Bench, out: Path) -> None:
    out.mkdir()
    for name in (*FILES[:5], *DETAILS):
        (out / name).write_text("mine")
    with pytest.raises(ForeignError, match=r"and 4 more, which no run has written: a run would replace them"):
        preflight(spec_of(bench, out))
    spec = spec_of(bench, out, overwrite=True)
    preflight(spec)
    published(spec)
    assert b"mine" not in files(out).values() and not (out / BEGUN).exists()
    assert "overwrite" not in yaml.safe_load((out / "spec.yaml").read_text())
    assert "overwrite" not in Folder.at(str(out)).read_json(RUN)["spec"]
    preflight(spec_of(bench, out))


def test_an_earlier_run_is_replaced_but_not_what_was_put_beside_it(bench: Bench, out: Path) -> None:
    published(spec_of(bench, out))
    (out / "labels.csv").write_text("edited by hand")  # it is the run's all the same
    other = spec_of(bench, out, ranks=2)
    preflight(other)
    published(other)
    assert (out / "labels.csv").read_text() != "edited by hand"
    for name in ("neurons.parquet", "report/layers/7-mine.html"):  # a table and a page that this run has not
        (out / name).write_text("mine")
        with pytest.raises(ForeignError, match=rf"holds {name}, which"):
            preflight(other)
        (out / name).unlink()
    republish_report(str(out))
    preflight(other)


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("number", [0, 1, 4, 8, 13])
@pytest.mark.parametrize("is_second", [False, True], ids=["first", "second"])
def test_a_run_that_was_killed_while_it_published_goes_on(
    bench: Bench, out: Path, number: int, is_second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_second:
        published(spec_of(bench, out, ranks=2))
    write: Callable[..., Any] = Folder.write
    written = 0

    def write_or_die(self: Folder, name: str, data: bytes) -> Any:
        nonlocal written
        if self.url.startswith(str(out)) and (written := written + 1) > number:
            raise Killed
        return write(self, name, data)

    spec = spec_of(bench, out)
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", write_or_die)
        with pytest.raises(Killed):
            published(spec)
    shutil.rmtree(Path(bench.store) / "runs")  # nothing but the folder says so
    preflight(spec)
    published(spec)
    assert not (out / BEGUN).exists() and plan_publication(labelled(spec), spec).is_done


def test_a_mark_that_was_left_by_a_finished_run_is_removed(bench: Bench, out: Path) -> None:
    spec = spec_of(bench, out)
    published(spec)
    whole = files(out)
    Folder.at(str(out)).write_json(BEGUN, {"begun": []})
    plan = plan_publication(labelled(spec), spec)
    assert not plan.is_done
    publish.fn(plan)
    assert files(out) == whole and plan_publication(labelled(spec), spec).is_done


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_a_run_json_that_was_removed_as_a_message_said_or_is_torn_is_made_again(
    bench: Bench, out: Path, harm: str
) -> None:
    spec = spec_of(bench, out)
    published(spec)
    (out / RUN).unlink()
    if harm == "torn":
        (out / RUN).write_text("{")
    preflight(spec)
    published(spec)
    assert plan_publication(labelled(spec), spec).is_done
    # In a folder that was made anew under the same name, the record of the run that was there says nothing.
    shutil.rmtree(out)
    out.mkdir()
    (out / "labels.csv").write_text("mine")
    with pytest.raises(ForeignError, match=r"labels\.csv"):
        preflight(spec)


def test_a_link_in_the_place_of_a_table_is_in_the_way(bench: Bench, out: Path, tmp_path: Path) -> None:
    out.mkdir()
    (out / "labels.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ForeignError, match=r"labels\.csv"):
        preflight(spec_of(bench, out))


def test_a_data_set_for_others_and_a_bucket_are_looked_at_too(tmp_path: Path) -> None:
    out, store = Folder.at(f"memory://{tmp_path.name}/out"), Folder.at(str(tmp_path / "store"))
    refuse_foreign_files(out, store)
    out.write("labels.parquet", b"mine")
    (out / "report" / "data").write("0-index.js", b"mine")
    with pytest.raises(ForeignError, match=r"labels\.parquet, report/data/0-index\.js, which no run"):
        refuse_foreign_files(out, store)
    refuse_foreign_files(out, store, overwrite=True)


def test_nothing_in_an_empty_or_absent_folder_is_foreign(tmp_path: Path, bench: Bench) -> None:
    from storage.layout import Store

    assert foreign_files(Folder.at(str(tmp_path / "none")), Store.existing(bench.store)) == []
