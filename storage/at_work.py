"""Whether a run is at work in a store, by the leases that somebody holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock, Timeout

from storage.errors import BusyError
from storage.files import Found
from storage.layout import Store

#: A lease that is an object has no holder when nobody renewed it for so long: twenty times what it lasts.
SECONDS_HELD = 600.0


def is_held(store: Store, lease: Found) -> bool:
    """Whether somebody holds the lease of a file."""
    if not lease.path.endswith(".lock"):
        return time.time() - lease.modified < SECONDS_HELD
    try:
        with locked(store, lease):
            return False
    except Timeout:
        return True


@contextmanager
def locked(store: Store, one: Found) -> Iterator[None]:
    """Nobody else holds a lease's lock inside the `with`, so that it can be removed; other files have none.

    Raises `Timeout` where somebody holds it.
    """
    if not one.path.endswith(".lock"):
        yield
        return
    with FileLock(store.root.path(one.path), timeout=0, thread_local=False, fallback_to_soft=False):
        yield


def refuse_while_at_work(held: Sequence[str]) -> None:
    """Raises `BusyError` where leases are held."""
    if held:
        raise BusyError(
            f"A run is at work: {len(held)} leases are held (first: {held[0]}). Nothing was removed; wait for "
            "its end."
        )
