"""The real server on a loopback socket, in a thread of its own, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.toy import toy_model
from facetrm.serve import PageSetup, RewardHttpServer, ServeConfig
from facetrm.serve.keys import KnownKey
from fakes import chat

PROMPT, ANSWERS = "how are you ?", ["fine , thank you", "write a poem about the river"]
PAIR: dict[str, Any] = {"prompt": PROMPT, "responses": ANSWERS}
TALKS = [chat(PROMPT, answer) for answer in ANSWERS]
TURNS = [[{"role": m.role, "content": m.content} for m in talk] for talk in TALKS]


def exact_toy(*, mode: str = "exact") -> RewardModel:
    """Return the toy model in another mode than its own."""
    model = toy_model()
    encoder = model.encoder
    assert isinstance(encoder, TransformerEncoder)
    config = BackboneConfig(path="toy", device="cpu", mode=mode)
    return RewardModel(TransformerEncoder(encoder.model, encoder.tokenizer, config=config), model.mixtures)


@dataclass(frozen=True)
class Reply:
    """One response."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def value(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Client:
    """Sends requests to one server, each on a connection of its own."""

    server: RewardHttpServer
    port: int

    @property
    def url(self) -> str:
        return self.server.address

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            if data is not None:
                names = {"Content-Type": "application/json", **names}
            connection.request(method, path, data, names)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read().decode())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.send("POST", path, body, **headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, **headers)


@contextmanager
def reward_server(
    load: Callable[[], RewardModel] = exact_toy,
    *,
    wait: bool = True,
    keys: Sequence[KnownKey] = (),
    host: str = "127.0.0.1",
    page: PageSetup | None = None,
    name: str = "toy",
    **settings: Any,
) -> Iterator[Client]:
    """Serve a model until the block ends; with ``wait``, the block begins when it is ready."""
    config = ServeConfig(**settings)
    server = RewardHttpServer(load, config=config, name=name, host=host, port=0, keys=keys, page=page)
    thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
    thread.start()
    until = time.monotonic() + 60.0
    while not server.started or (wait and not server.served.ready):
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.005)
    try:
        yield Client(server, int(server.address.rpartition(":")[2]))
    finally:
        server.handle_exit(15, None)
        thread.join(30.0)
        assert not thread.is_alive(), "the server did not stop"
