"""A server of rewards on loopback: the test says how it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handle = Callable[[str, Any], tuple[int, Any]]


@contextmanager
def serving(handle: Handle) -> Iterator[str]:
    """Answer each POST with the status and value that ``handle(path, body)`` returns; bytes go out as they are."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, value = handle(self.path, body)
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            return None

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            return None  # a client that hung up is what one test wants

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def words(messages: list[dict[str, str]]) -> int:
    return sum(len(m["content"].split()) for m in messages)


def native(path: str, body: Any) -> tuple[int, Any]:
    """Rewards are words; whatever lacks conversations is refused."""
    if path != "/v1/rewards":
        return 404, {}
    if "conversations" not in body:
        return 422, {"detail": "conversations"}
    return 200, {"scores": [{"reward": words(turns)} for turns in body["conversations"]], "model": "m"}
