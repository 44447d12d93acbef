"""A server on loopback whose answers a function makes, for benchmarks and tests.

with serving(lambda path, body: (200, {"rewards": [1.0]})) as url: ...
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handle = Callable[[str, Any], tuple[int, Any]]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that hung up is what some tests want."""


@contextmanager
def serving(handle: Handle, pages: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Serve on a free port, and yield the address.

    Args:
        handle: Returns the status and the value that answer a POST, given its path and its JSON body. Bytes go out as
            they are.
        pages: The values that answer a GET, by path. Another path gets 404.
    """
    known = pages or {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._send(*handle(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_GET(self) -> None:
            found = self.path in known
            self._send(200 if found else 404, known[self.path] if found else {"detail": "Not Found"})

        def _send(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return None

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
