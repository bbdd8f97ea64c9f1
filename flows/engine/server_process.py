"""The process of a run's own Prefect server; it ends when its standard input does.

Started by `flows.engine.server`. Waits for a line, then prints the port of the loopback address it serves on.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> None:
    """Serves until standard input ends."""
    if not sys.stdin.readline():
        return
    listener = socket.create_server(("127.0.0.1", 0))

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(create_app(), log_level="warning", timeout_keep_alive=30)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
