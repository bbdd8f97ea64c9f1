"""Runs that want the same thing at once."""

from __future__ import annotations

import shutil
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from storage.layout import Store
from tasks.spec import DissectSpec
from tests.test_flows.conftest import Counting
from tests.test_flows.test_dissect import tables


class Releasing(Counting):
    """An observer that ends another run's lease when this run says that it waits for it."""

    def noted(self, text: str) -> None:
        super().noted(text)
        if text.startswith("Another run"):
            self.release()

    def release(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("has_done_it", [True, False])
@pytest.mark.usefixtures("one_flow_run")
def test_a_run_waits_for_what_another_is_at_and_says_so(
    finished: dict[str, Any], base: dict[str, Any], tmp_path: Path, prefect_api: str, has_done_it: bool
) -> None:
    from flows.dissect import dissect
    from flows.engine.progress import observed_by

    [markers] = (tmp_path / "store" / "embeddings").glob("*.done")
    markers.rename(tmp_path / "markers")
    shutil.rmtree(finished["out"])
    observer, spec = Releasing(), DissectSpec(**finished)
    lease = f"{markers.stem}-{next((tmp_path / 'markers').iterdir()).stem}"
    run = Thread(target=copy_context().run, args=(dissect, spec))  # with the settings that name the server
    with observed_by(observer), Store.at(finished["store"]).leases.held(lease, print):
        released = Thread()

        def release() -> None:
            if has_done_it:
                (tmp_path / "markers").rename(markers)
            released.start()

        observer.release = release  # type: ignore[method-assign]
        run.start()
        while not released.ident:
            run.join(0.05)
            assert run.is_alive(), "It did not wait."
    with observed_by(observer):
        run.join(60)
    assert any(note.startswith("Another run is at images 0-47: embeddings (process ") for note in observer.notes)
    assert ("All of it was done by another run." in observer.notes) == has_done_it
    assert tables(tmp_path / "out") == tables(Path(base["out"]))


@pytest.mark.usefixtures("one_flow_run")
def test_ctrl_c_ends_a_run_that_waits_for_another(
    finished: dict[str, Any], prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.dissect import dissect
    from flows.engine import progress

    [marker] = Path(finished["store"]).glob("embeddings/*.done/*")
    marker.unlink()
    observer = Counting()

    def interrupted(counts: Any) -> None:
        if any(note.startswith("Another run") for note in observer.notes):
            raise KeyboardInterrupt

    monkeypatch.setattr(progress._Counts, "look", interrupted)
    lease = f"{marker.parent.stem}-{marker.stem}"
    with (
        Store.at(finished["store"]).leases.held(lease, print),
        progress.observed_by(observer),
        pytest.raises(KeyboardInterrupt),
    ):
        dissect(DissectSpec(**finished))
    assert not marker.exists()
