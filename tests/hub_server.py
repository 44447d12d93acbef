"""A Hub of our own on loopback: what an upload needs of its API, and everything that was sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """Where it listens, whom it refuses, the files of the last commit by their path, and what it deleted."""

    url: str = ""
    refuse: int | None = None
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    message: str = ""
    present: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve a Hub in a thread."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if state.refuse is not None:
                self._say({"error": "You may not"}, state.refuse)
            elif self.path == "/api/repos/create":
                state.created.append(json.loads(body))
                self._say({"url": f"{state.url}/{state.created[-1].get('organization', 'me')}/name", "name": "me/name"})
            elif self.path.endswith("/preupload/main"):
                wanted = json.loads(body)["files"]
                self._say(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]}
                )
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        state.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "deletedFile":
                        state.deleted.append(line["value"]["path"])
                    elif line["key"] == "header":
                        state.message = line["value"]["summary"]
                self._say({"commitUrl": f"{state.url}/me/name/commit/abc", "commitOid": "abc", "success": True})
            else:
                self._say({}, 200)

        def do_GET(self) -> None:
            if "/tree/" in self.path:
                self._say([{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in state.present])
            else:
                self._say({"id": "me/name", "sha": "0" * 40, "siblings": []}, state.refuse or 200)

        def _say(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
