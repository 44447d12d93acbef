"""Run the service: load the model, listen, and stop without losing what was accepted."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, final

import uvicorn

from facetrm.core.errors import ConfigError
from facetrm.core.progress import log
from facetrm.model.reward_model import RewardModel
from facetrm.serve.app import make_app
from facetrm.serve.guard import Guard
from facetrm.serve.keys import KeyRing, KnownKey
from facetrm.serve.limits import ServeConfig
from facetrm.serve.page.setup import PageSetup
from facetrm.serve.served import Served
from facetrm.serve.service import RewardService

_BACKLOG: Final = 2048


@final
class RewardHttpServer(uvicorn.Server):
    """A server that refuses new requests from the moment of the signal to stop, and finishes the others.

    Args:
        load: loads the model; it runs while the server already answers ``/health``.
        config: settings of the service.
        name: name under which the model is served.
        host: address to listen at.
        port: port to listen at; 0 takes a free one.
        keys: the known keys.
        page: what the page at ``/`` is given.

    Raises:
        ConfigError: other machines could use the server without a key, and ``insecure`` is not set.
    """

    def __init__(
        self,
        load: Callable[[], RewardModel],
        *,
        config: ServeConfig,
        name: str,
        host: str = "127.0.0.1",
        port: int = 8000,
        keys: Sequence[KnownKey] = (),
        page: PageSetup | None = None,
    ) -> None:
        local = is_local(host)
        if not local and not keys and not config.insecure:
            raise ConfigError(
                f"at {host} other machines could use the server without a key",
                place="--host",
                fix="give --keys FILE, listen at 127.0.0.1, or give --set serve.insecure=true",
            )
        self.served, self.problem = Served(config, page=page or PageSetup()), list[BaseException]()
        self._load, self._name = load, name
        ring = KeyRing(keys, rate=config.rate_per_minute)
        guard = Guard(make_app(self.served, keyed=ring.required), self.served, keys=ring, local=local)
        super().__init__(
            uvicorn.Config(
                guard,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=config.shutdown_seconds,
                h11_max_incomplete_event_size=64 * 2**10,
            )
        )

    @property
    def address(self) -> str:
        """The address at which the server listens, once it does."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def serve_until_stopped(self) -> None:
        """Load the model, answer requests, and return after a signal to stop.

        Raises:
            FacetrmError: the model cannot be loaded.
            ConfigError: the server cannot listen at the address.
        """
        loading = threading.Thread(target=self._begin, name="facetrm-load", daemon=True)
        loading.start()
        try:
            self.run()
        except SystemExit:
            place = f"{self.config.host}:{self.config.port}"
            raise ConfigError("cannot listen at this address", place=place, fix="give another --port") from None
        finally:
            self.served.stop()
            if self.served.service is not None and not self.served.service.close():
                log("warning", warning="some requests were not finished in time")
        if self.problem:
            raise self.problem[0]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where.

        Args:
            sockets: sockets that listen already; None for the configured address.
        """
        await super().startup(sockets)
        if self.started:
            log("listening", address=self.address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests as soon as a signal comes; a second Ctrl-C does not wait for the others.

        The signal is not raised again afterwards, so that a server that was told to stop ends with code 0.

        Args:
            sig: number of the signal.
            frame: where the program is.
        """
        self.served.stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _begin(self) -> None:
        try:
            model = self._load()
            service = RewardService(
                model, name=self._name, config=self.served.config, on_batch=self.served.counters.batch
            )
            self.served.begin(service)
        except BaseException as exc:  # shown by the thread that waits for the server
            self.problem.append(exc)
            self.should_exit = True
            return
        log("ready", model=self._name, hash=service.hash[:12], mode=model.encoder.mode)


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address.

    Args:
        host: address to listen at.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
