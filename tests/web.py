"""A web server on this machine that answers as it is told to by the URL, badly too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """A running server, the files that it has, and what it was asked for.

    `/NAME` is a file. `/503/2/NAME` is one that fails with 503 twice and then is there; instead of 503, `hang` says
    nothing, `cut` ends before it should, and 302 sends to the URL that the file's content is.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving() -> Iterator[Web]:
    """A server for as long as the `with` lasts."""
    web = Web()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            *trouble, name = self.path.strip("/").split("/")
            how, times = trouble or ("", "0")
            if web.asked.count(self.path) > int(times):
                how = "200" if name in web.files else "404"
            if how == "hang":
                web.stopped.wait(5)
                return
            content = web.files.get(name, b"")
            self.send_response(200 if how == "cut" else int(how))
            if how == "302":
                self.send_header("Location", content.decode())
            self.send_header("Content-Length", str(len(content) + 10 * (how == "cut")))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        running.daemon_threads = False  # so that the last answers are over when the server is
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        web.url = f"http://127.0.0.1:{running.server_port}"
        try:
            yield web
        finally:
            web.stopped.set()
            running.shutdown()
            thread.join()
