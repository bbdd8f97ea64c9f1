"""A browser that is driven: keys, reloads, downloads. Speaks the DevTools protocol, as Chromium does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.sync.client import ClientConnection, connect

#: Seconds after which something is wrong.
PATIENCE = 30


class Page:
    """A tab. What its console says, and every error, is in `said`."""

    def __init__(self, socket: ClientConnection, downloads: Path) -> None:
        self.said: list[str] = []
        self.downloads = downloads
        self._socket, self._session, self._number, self._events = socket, "", 0, list[dict[str, Any]]()
        # It shares no storage with other tabs.
        self._context = {"browserContextId": self.send("Target.createBrowserContext")["browserContextId"]}
        where = {"downloadPath": str(downloads), "eventsEnabled": True}
        self.send("Browser.setDownloadBehavior", behavior="allow", **where, **self._context)
        target = self.send("Target.createTarget", url="about:blank", **self._context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        at = {"sessionId": self._session} if self._session and not method.startswith(("Browser.", "Target.")) else {}
        self._socket.send(json.dumps(command | at))
        while (message := self._receive()).get("id") != self._number:
            pass
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def wait_for(self, event: str, **parameters: Any) -> None:
        """Until an event with these parameters has come, since the last `wait_for`."""
        while True:
            for number, (name, values) in enumerate((e["method"], e["params"]) for e in self._events):
                if name == event and parameters.items() <= values.items():
                    del self._events[: number + 1]
                    return
            self._receive()

    def open(self, path: Path, state: str = "") -> None:
        for url in ("about:blank", path.as_uri() + state):  # or another state of the same page would load nothing
            self._load("Page.navigate", url=url)

    def reload(self) -> None:
        self._load("Page.reload")

    def close(self) -> None:
        self.send("Target.disposeBrowserContext", **self._context)

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def value(self, script: str) -> Any:
        """What an expression gives on the page; of a promise, what it comes to."""
        done = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, userGesture=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, condition: str) -> None:
        """Until an expression is true on the page."""
        look = f"const look = () => ({condition}) ? done() : requestAnimationFrame(look); look();"
        self.value(f"new Promise((done) => {{ {look} }})")

    def text(self, selector: str) -> str:
        """The text of an element as it is laid out."""
        found = self.value(f"document.querySelector({json.dumps(selector)}).innerText")
        assert isinstance(found, str)
        return found

    def download(self, selector: str) -> Path:
        """The file that a click on an element gives."""
        for earlier in self.downloads.iterdir():
            earlier.unlink()
        self._events.clear()
        self.value(f"document.querySelector({json.dumps(selector)}).click()")
        self.wait_for("Browser.downloadProgress", state="completed")
        [file] = self.downloads.iterdir()
        return file

    def _load(self, method: str, **parameters: Any) -> None:
        """A command that brings another document, until that is loaded: the event may be of an earlier one."""
        self.value("window.isEarlier = true")
        self.send(method, **parameters)
        while True:
            self.wait_for("Page.loadEventFired")
            if self.value("!window.isEarlier && document.readyState === 'complete'"):
                return

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=PATIENCE))
        if "method" in message and message.get("sessionId", self._session) == self._session:
            self._events.append(message)
            if message["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.said.append(json.dumps(message["params"]))
        return message


@dataclass(frozen=True)
class Browser:
    """One that runs."""

    socket: ClientConnection
    downloads: Path

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A tab that knows nothing of others, for as long as the `with` lasts."""
        page = Page(self.socket, self.downloads)
        try:
            yield page
        finally:
            page.close()


@contextmanager
def driven(browser: str, switches: tuple[str, ...]) -> Iterator[Browser]:
    """A browser of its own, for as long as the `with` lasts."""
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        TemporaryDirectory() as downloads,
        subprocess.Popen(
            [browser, *switches, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process,
    ):
        try:
            assert process.stderr is not None
            said = iter(process.stderr.readline, "")
            url = next(found[1] for line in said if (found := re.search(r"listening on (ws://\S+)", line)))
            # By no proxy: the browser is on this machine.
            with connect(url, max_size=None, proxy=None) as socket:
                yield Browser(socket, Path(downloads))
        finally:
            process.kill()
