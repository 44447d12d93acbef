"""What a scorer must have to be part of another one: a hash, and scores of single answers."""

from __future__ import annotations

from typing import Any

from facetrm.baselines.groups import GroupScorer
from facetrm.core.errors import ConfigError
from facetrm.model.output import Scorer


def scorer_hash(scorer: Scorer) -> str:
    """Return the fingerprint of everything that affects the scores of a scorer, its mode included.

    Args:
        scorer: A reward model, or any scorer with a ``hash``.

    Raises:
        ConfigError: The scorer has no hash.
    """
    found = getattr(scorer, "hash", None)
    if not isinstance(found, str) or not found:
        problem = f"a {type(scorer).__name__} has no hash, so its scores cannot be told from those of another"
        raise ConfigError(problem, place="scorer", fix="give it an attribute 'hash', a text")
    encoder: Any = getattr(scorer, "encoder", None)
    return found if encoder is None else f"{found}/{encoder.mode}"


def check_single(scorer: Scorer, *, place: str) -> None:
    """Raise ConfigError if a scorer compares answers, so that a single score of it means nothing.

    Args:
        scorer: The scorer.
        place: What it is needed for, for the error message.
    """
    if isinstance(scorer, GroupScorer):
        problem = f"a {type(scorer).__name__} compares the answers to one prompt and rates none by itself"
        raise ConfigError(problem, place=place, fix="use a scorer of single answers; combine this one with Vote")
