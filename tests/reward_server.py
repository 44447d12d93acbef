"""Servers of rewards on loopback: how they answer."""

from __future__ import annotations

from typing import Any

from planting import loopback

Handle, serving = loopback.Handle, loopback.serving


def words(messages: list[dict[str, str]]) -> int:
    return sum(len(m["content"].split()) for m in messages)


def native(path: str, body: Any) -> tuple[int, Any]:
    """Rewards are words; whatever lacks conversations is refused."""
    if path != "/v1/rewards":
        return 404, {}
    if "conversations" not in body:
        return 422, {"detail": "conversations"}
    return 200, {"scores": [{"reward": words(turns)} for turns in body["conversations"]], "model": "m"}
