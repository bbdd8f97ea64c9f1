"""A Dask cluster that is there already: no workers, and workers that cannot do the tasks of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from flows.engine import cluster, on_worker
from flows.engine.cluster import ClusterError, Lookout, check_cluster
from flows.engine.environment import ROOT
from flows.engine.runners import SCHEDULER, task_runners
from tasks.spec import DissectSpec


@contextmanager
def running(num_workers: int) -> Iterator[LocalCluster]:
    """A cluster in this process."""
    with LocalCluster(
        n_workers=num_workers, threads_per_worker=1, processes=False, protocol="tcp", scheduler_kwargs=SCHEDULER
    ) as made:
        yield made


def test_a_cluster_whose_workers_have_this_code_is_taken() -> None:
    told: list[str] = []
    with running(2) as made:
        check_cluster(made.scheduler_address, 30, told.append)
    assert told == []


def test_a_cluster_without_workers_is_waited_for_and_then_told(tiny: dict[str, Any], prefect_api: str) -> None:
    from flows.dissect import dissect
    from flows.engine.progress import observed_by
    from tests.test_flows.conftest import Counting

    observer = Counting()
    with running(0) as made, observed_by(observer):
        spec = DissectSpec(**tiny, dask_address=made.scheduler_address, dask_wait=0.5)
        with pytest.raises(ClusterError, match=r"has had no worker for 1 s\. .*`dask worker tcp:.*--dask-wait"):
            dissect(spec)
    [note] = observer.notes
    assert "Waiting since 1 s for a Dask worker" in note and made.scheduler_address in note
    assert not Path(tiny["store"], "probes").exists()


def test_a_worker_that_comes_while_it_is_waited_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(0) as made:
        check_cluster(made.scheduler_address, 60, lambda _: made.scale(1))


def test_a_run_whose_last_worker_is_lost_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS_BETWEEN_LOOKS", 0.0)
    told: list[str] = []
    with running(1) as made, made.get_client() as client:
        lookout = Lookout(client, made.scheduler_address, 0.3, told.append)
        assert lookout.look()
        made.scale(0)
        with pytest.raises(ClusterError, match="What was finished is kept"):
            while True:
                lookout.look()
    assert len(told) == 1


def test_a_scheduler_that_is_not_there_is_told() -> None:
    with pytest.raises(ClusterError, match=r"The Dask scheduler at tcp://127.0.0.1:9 does not answer"):
        check_cluster("tcp://127.0.0.1:9", 0.2, print)


def answer_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **files: str) -> Any:
    """What a process answers that finds only these modules of ours."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tasks", "storage")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if Path(path).resolve() != ROOT)])
    monkeypatch.setattr(sys, "meta_path", [one for one in sys.meta_path if "ditable" not in repr(one)])
    for name, text in files.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "observe.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return on_worker.answer({})


def test_a_worker_without_the_code_names_its_python_and_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        said = answer_without(patched, tmp_path)
    assert "No module named 'tasks'" in cluster._lacks(said)
    assert sys.executable in cluster._lacks(said)


def test_a_worker_with_other_code_names_both_folders_and_digests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        said = answer_without(patched, tmp_path, tasks="VERSION = 0")
    text = cluster._lacks(said)
    assert str(tmp_path) in text and str(ROOT) in text
    assert said["code"] in text and on_worker.code_digest(str(ROOT)) in text


def test_a_worker_of_another_python_is_told() -> None:
    said = on_worker.answer({}) | {"python": "3.99.1"}
    assert "Python 3.99.1" in cluster._lacks(said)
    assert cluster._lacks(said | {"python": sys.version.split()[0]}) == ""


def test_workers_that_lack_something_are_counted_and_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.on_worker, "code_digest", lambda folder: "of this run")
    with (
        running(2) as made,
        pytest.raises(ClusterError, match=r"2 of the 2 Dask workers at tcp.*; tcp://.* has other"),
    ):
        check_cluster(made.scheduler_address, 30, print)


def test_what_is_sent_to_workers_runs_where_nothing_of_ours_is_imported() -> None:
    with running(1) as made, made.get_client() as client:
        [said] = cluster._answers(client, made.scheduler_address).values()
    assert said["folder"] == str(ROOT) and "error" not in said


def test_a_stage_of_its_own_is_checked_too(tiny: dict[str, Any]) -> None:
    with running(0) as made:
        spec = DissectSpec(**tiny, dask_address=made.scheduler_address, dask_wait=0.2)
        with pytest.raises(ClusterError, match="no worker"), task_runners(spec):
            raise AssertionError
