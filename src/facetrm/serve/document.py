"""What the OpenAPI document says besides the bodies: who may ask, and the header that shortens the time to answer."""

from __future__ import annotations

from typing import Any, Final

from facetrm.serve.guard import OPEN_PATHS
from facetrm.serve.served import TIMEOUT_HEADER

_SCHEME: Final = "key"
_SECONDS: Final[dict[str, Any]] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "Seconds within which the answer is wanted; the server's own limit holds if it is shorter.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def complete_document(document: dict[str, Any], *, keyed: bool) -> None:
    """Add to an OpenAPI document what is checked before and beside the routes.

    Args:
        document: the document of the routes; it is changed.
        keyed: whether a request needs a key.
    """
    who = "This server asks for no key."
    if keyed:
        who = f"Every route but {' and '.join(sorted(OPEN_PATHS & set(document['paths'])))} needs a key."
        scheme = {"type": "http", "scheme": "bearer", "description": "Send `Authorization: Bearer KEY`."}
        document.setdefault("components", {})["securitySchemes"] = {_SCHEME: scheme}
        document["security"] = [{_SCHEME: []}]
    document["info"]["description"] += f" {who}"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if keyed and path in OPEN_PATHS:
                operation["security"] = []
            if "504" in operation["responses"]:
                operation["parameters"] = [*operation.get("parameters", []), _SECONDS]
