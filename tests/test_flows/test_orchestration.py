"""What a run over thousands of shard groups takes of its tasks, with groups that no image is read for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import orchestration, pretended


def test_a_run_over_many_shard_groups_marks_them_all_and_gives_no_task_the_list_of_them(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_listed: list[int] = []
    markers = pretended._markers
    monkeypatch.setattr(
        pretended, "_markers", lambda plan, missing: num_listed.append(len(plan.missing)) or markers(plan, missing)
    )
    setting = orchestration.Setting(groups=150, seconds=0.0, workers=2, tasks=50, threads=True)
    figures = orchestration.measured(setting, str(tmp_path / "store"), "", {})
    assert figures["tasks"] == figures["rows"]["ended"] == 50
    assert num_listed == [0] * 150
    assert figures["requests"] < 50  # of the flow run, however many its tasks are
