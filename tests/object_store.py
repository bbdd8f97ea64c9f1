"""An object store on this machine that speaks S3 (moto), in a process of its own, and fails as it is told to."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from storage.files import Folder

REPO = Path(__file__).resolve().parent.parent

#: Where the server is told how to fail, and says what it was asked for.
FAULTS, ASKED = "/_faults", "/_asked"
BUCKET = "bucket"

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Fault:
    """How requests fail whose method is this and whose path contains this, the first so many times."""

    #: `503` and the like, `cut` (ends in the middle), `short` (leaves out the end, and says that this is all),
    #: `slow` (begins to answer after a second), `lost` (a write that is answered well and stores half), `unanswered`
    #: (does it, and answers 500).
    how: str
    method: str
    path: str
    times: int = 1


@dataclass(frozen=True)
class ObjectStore:
    """A running server."""

    endpoint: str

    def settings(self, folder: Path) -> dict[str, str]:
        """Environment variables with which `s3://` is this server, and no configuration of the user's is read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # botocore would wait seconds between those of its own
        }

    def folder(self) -> Folder:
        """An empty folder that is not made yet."""
        return Folder.at(f"s3://{BUCKET}/{uuid.uuid4().hex}")

    def fails(self, *faults: Fault) -> None:
        """From now on it fails like this and not as before; what it was asked for is forgotten."""
        body = json.dumps([asdict(fault) for fault in faults]).encode()
        urlopen(Request(self.endpoint + FAULTS, data=body, method="POST")).close()

    def asked(self) -> list[str]:
        """Requests since `fails`, as `GET /bucket/key?query`."""
        with urlopen(self.endpoint + ASKED) as answer:
            asked: list[str] = json.load(answer)
        return asked


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A server with one bucket for as long as the `with` lasts."""
    command = [sys.executable, "-m", "tests.object_store"]
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        try:
            endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
            urlopen(Request(f"{endpoint}/{BUCKET}", method="PUT")).close()
            yield ObjectStore(endpoint)
        finally:
            server.stdin.close()  # the server ends when nobody holds its other end, however this process ended


class Failing:
    """Middleware that fails as it is told, and writes down what is asked for."""

    def __init__(self, app: WSGI) -> None:
        self._app, self._lock = app, threading.Lock()
        self._faults: list[Fault] = []
        self._left: list[int] = []
        self._asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == ASKED:
            start("200 OK", [])
            return [json.dumps(self._asked).encode()]
        if path == FAULTS:
            faults = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            with self._lock:
                self._faults = [Fault(**fault) for fault in faults]
                self._left = [fault.times for fault in self._faults]
                self._asked = []
            start("204 No Content", [])
            return []
        how = self._next(environ["REQUEST_METHOD"], f"{path}?{query}" if query else path)
        return self._failing(how, environ, start) if how else self._app(environ, start)

    def _next(self, method: str, path: str) -> str:
        with self._lock:
            self._asked.append(f"{method} {path}")
            for number, fault in enumerate(self._faults):
                if self._left[number] and fault.method == method and fault.path in path:
                    self._left[number] -= 1
                    return fault.how
        return ""

    def _failing(self, how: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if how == "slow":
            time.sleep(1)
            return self._app(environ, start)
        if how == "lost":
            return self._app(_halved(environ), start)
        if how in ("cut", "short"):
            return self._part(how, environ, start)
        if how == "unanswered":
            self._app(environ, lambda *_: None)
            how = "500"
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        code = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied"}[how]
        start(f"{how} {code}", [("Content-Type", "application/xml")])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        return [f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()]

    def _part(self, how: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """The first half of an answer."""
        said: list[Any] = []
        content = b"".join(self._app(environ, lambda *given: said.extend(given)))
        half = content[: len(content) // 2]
        length = len(content if how == "cut" else half)
        headers = [pair for pair in said[1] if pair[0].lower() != "content-length" and "checksum" not in pair[0]]
        start(said[0], [*headers, ("Content-Length", str(length))])
        yield half


def _halved(environ: dict[str, Any]) -> dict[str, Any]:
    content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    half = content[: len(content) // 2]
    return {
        **{name: value for name, value in environ.items() if "CHECKSUM" not in name and "MD5" not in name},
        "wsgi.input": BytesIO(half),
        "CONTENT_LENGTH": str(len(half)),
    }


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    logging.disable()
    app = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
