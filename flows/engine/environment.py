"""The environment of every process that runs flows: set when `flows` is imported, before Prefect is.

Three things hold in it. Our packages are ours, whatever the working directory holds: their names are generic, and a
project of Celery or Invoke has a `tasks.py`. Prefect's servers on this machine are asked directly, whatever proxy
the rest of the world is reached by. Prefect reports nothing, unless the user has said that it may.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from urllib.parse import urlsplit

#: The folder that holds our packages: a checkout, or where they are installed.
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "storage")
#: Runs a module in a process of its own in which our packages are ours: `python -P BOOT MODULE ARGUMENT...`.
BOOT = ROOT / "flows" / "engine" / "boot.py"
#: The same as Python, for a process that is started in another way.
BOOT_SOURCE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import flows.engine.environment
sys.path.remove({str(ROOT)!r})
flows.engine.environment.ask_prefect_directly()
"""
#: No call leaves the machine unless the user configured one.
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
}
#: Hosts that no proxy can reach: there, they are another machine.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare() -> None:
    """Prepares this process, and those that it starts; what the user has set stays."""
    pin_packages()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    leave_loopback_to_itself(os.environ)


def pin_packages() -> None:
    """Imports our packages from `ROOT`, so that no module of the same name is found for them later.

    Raises `ImportError` where another module has such a name already.
    """
    for name in PACKAGES:
        if name in sys.modules:
            _check_is_ours(name)
            continue
        spec = PathFinder.find_spec(name, [str(ROOT)])
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)


def _check_is_ours(name: str) -> None:
    found = [str(Path(path).resolve()) for path in getattr(sys.modules[name], "__path__", ())]
    if str(ROOT / name) not in found:
        where = getattr(sys.modules[name], "__file__", None) or ", ".join(found)
        raise ImportError(
            f"The module {name!r} of {where} is imported already, and CLIP-Dissect has a package of that name: both "
            "cannot be in one process. Rename yours, or run the command `clip-dissect` in a process of its own."
        )


def leave_loopback_to_itself(environment: MutableMapping[str, str]) -> None:
    """Adds loopback to the hosts that are asked without a proxy; those that the user has named stay."""
    # Where both are set, Python reads the lower-case one alone.
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host for host in (part.strip() for part in named.split(",")) if host]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def is_on_loopback(url: str) -> bool:
    """True if a URL names this machine by its loopback address."""
    host = urlsplit(url).hostname or ""
    return host in LOOPBACK or host.startswith("127.")


def ask_prefect_directly() -> None:
    """Has Prefect's clients in this process use no proxy, where one cannot be used at all.

    httpx makes the connection of every proxy as it starts, so that `ALL_PROXY=socks5://...` without the package
    socksio stops clients that would never use it. For a Prefect server on loopback only; others need that proxy.
    """
    import httpx
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    try:
        httpx.Client().close()
    except (ImportError, ValueError):  # no package for it; no such kind of proxy
        for client in (PrefectHttpxSyncClient, PrefectHttpxAsyncClient):
            _trust_no_environment(client)


def _trust_no_environment(client: type) -> None:
    begin = client.__init__  # type: ignore[misc]

    def without_proxies(self: object, *args: object, **options: object) -> None:
        begin(self, *args, **{"trust_env": False, **options})

    client.__init__ = without_proxies  # type: ignore[misc]
