"""The folder that a run publishes into: which files in it a run may replace, and which are somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage.completion import Completion
from storage.errors import DamagedError, ForeignError, StorageError
from storage.files import Folder, is_local
from storage.layout import Store
from storage.runs import is_recorded
from tasks.page import OLD_REPORT
from tasks.published import COLUMNS, DETAILS, FILES, REPORT, RUN, read_run, read_table
from tasks.report.pages import OURS

#: Marker of a run that is publishing: there from before its first file until after its last, `run.json`.
BEGUN = "run.begun.json"
#: The report's folder.
REPORT_FOLDER = REPORT.partition("/")[0]
#: Files that a run writes or removes, beside those of its report.
NAMES = (*FILES, *DETAILS, OLD_REPORT, RUN, BEGUN)
#: Files named in a message.
SHOWN = 5


def refuse_foreign_files(out: Folder, store: Folder, *, overwrite: bool = False) -> None:
    """Raises `ForeignError` where publishing in `out` would replace files that no run wrote there.

    A run's files are those that a `run.json` names, and those of a run that was killed while it published. `store` is
    where the new run is recorded; `overwrite` allows everything. Other files in the folder do not matter.
    """
    if overwrite:
        return
    foreign = foreign_files(out, Store(store))
    if not foreign:
        return
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    raise ForeignError(
        f"--out {out.url} holds {', '.join(foreign[:SHOWN])}{more}, which no run has written: a run would replace "
        f"{'it' if len(foreign) == 1 else 'them'}. Take another folder, or replace what is there: --overwrite."
    )


def foreign_files(out: Folder, store: Store) -> list[str]:
    """Files in `out` of names that a run uses, and that no run wrote, by their paths."""
    there = [*_present(out, NAMES), *_report_files(out)]
    if not there or _is_begun(out):
        return []
    named = _named_by_run(out)
    if named is None:
        return [] if _is_left_by_a_run(out, store, there) else there
    return [name for name in there if name not in named]


def begin(out: Folder) -> None:
    """Marks that from here on all files of a run's names in `out` are a run's."""
    Completion(out).mark(BEGUN.removesuffix(".json"), {"begun": list(NAMES)})


def end(out: Folder) -> None:
    """Removes the mark, when `run.json` is there."""
    out.remove_file(BEGUN)


def _present(out: Folder, names: Sequence[str]) -> list[str]:
    if is_local(out.url):
        # Links that lead nowhere are in the way too.
        return [name for name in names if Path(out.path(name)).exists() or Path(out.path(name)).is_symlink()]
    return [name for name in names if out.is_file(name)]


def _report_files(out: Folder) -> list[str]:
    """Pages and data that a report would replace or remove, but for its first page, which is among `NAMES`."""
    found = (f"{REPORT_FOLDER}/{one.path}" for one in (out / REPORT_FOLDER).files() if OURS.fullmatch(one.path))
    return [name for name in found if name != REPORT]


def _is_begun(out: Folder) -> bool:
    try:
        return isinstance(out.read_json(BEGUN)["begun"], list)
    except (FileNotFoundError, DamagedError, LookupError, TypeError):
        return False


def _named_by_run(out: Folder) -> set[str] | None:
    """Files that the `run.json` in `out` names, and that itself; None where there is none, or somebody else's."""
    try:
        return {*read_run(out)["files"], RUN}
    except StorageError:
        return None


def _is_left_by_a_run(out: Folder, store: Store, there: Sequence[str]) -> bool:
    """True if a run on record published here and only its `run.json` is gone or torn: what it wrote shows that.

    The record alone does not: the folder may have been removed since, and another made of the same name.
    """
    try:
        return is_recorded(store, out) and any(_is_of_a_run(out, name) for name in there)
    except OSError:
        return False


def _is_of_a_run(out: Folder, name: str) -> bool:
    """True if a file can only be of a run: a table with the columns of a run's, or data of a report's page."""
    if name.startswith(f"{REPORT_FOLDER}/data/"):
        return True
    try:
        return name in COLUMNS and read_table(out, name) is not None
    except (StorageError, OSError):
        return False
