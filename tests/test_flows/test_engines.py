"""A cluster that is there already: a run finds it by its address, and gives the same tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import LocalCluster

from tests.test_flows.test_dissect import Run, tables


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_at_an_address_gives_the_same_tables(run: Run, base: dict[str, Any], tmp_path: Path) -> None:
    own = {"store": str(tmp_path / "store"), "out": str(tmp_path / "out")}
    with (
        dask.config.set({"logging.distributed": "warning"}),
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address=None
        ) as cluster,
    ):
        assert run(**(base | own | {"dask_address": cluster.scheduler_address}))["label"] == 8
    assert tables(tmp_path / "out") == tables(Path(base["out"]))
