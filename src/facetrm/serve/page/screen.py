"""``GET /`` and ``/page/...``: the page and its files. It loads nothing from elsewhere and runs no inline script."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response

from facetrm.serve.refusals import RefusalError

_ASSETS: Final = Path(__file__).parent / "assets"
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}

screen_router: Final = APIRouter(include_in_schema=False)


@screen_router.get("/")
async def give_page() -> Response:
    """Return the page."""
    return _asset("index.html")


@screen_router.get("/page/{name}")
async def give_asset(name: str) -> Response:
    """Return one of the page's files.

    Args:
        name: its name; there are no folders.
    """
    return _asset(name)


def _asset(name: str) -> Response:
    found = {path.name: path for path in _ASSETS.iterdir() if path.suffix in _KINDS}.get(name)
    if found is None:
        raise RefusalError(404, "the page has no such file", fix="open / instead")
    return Response(found.read_bytes(), media_type=_KINDS[found.suffix], headers=PAGE_HEADERS)
