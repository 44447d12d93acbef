"""Floor 5: an HTTP service that many programs share, and its client."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "HttpScorer",
    "PageSetup",
    "RewardHttpServer",
    "ServeConfig",
    "read_known_keys",
    "served_name",
    "write_key",
]

if TYPE_CHECKING:
    from facetrm.serve.http_scorer import HttpScorer
    from facetrm.serve.keys import read_known_keys, write_key
    from facetrm.serve.limits import ServeConfig
    from facetrm.serve.page.setup import PageSetup
    from facetrm.serve.running import RewardHttpServer
    from facetrm.serve.service import served_name
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.serve.http_scorer": ["HttpScorer"],
            "facetrm.serve.keys": ["read_known_keys", "write_key"],
            "facetrm.serve.limits": ["ServeConfig"],
            "facetrm.serve.page.setup": ["PageSetup"],
            "facetrm.serve.running": ["RewardHttpServer"],
            "facetrm.serve.service": ["served_name"],
        },
    )
