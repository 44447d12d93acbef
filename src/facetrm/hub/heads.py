"""Find the single linear head of a scalar reward model, whatever its name. Errors say what other layers there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from facetrm.core.errors import ModelError, short

SCORE: Final = "score"
# Names of published linear heads [1, D] on the last token. The first is the name in Transformers.
_NAMES: Final = (
    SCORE,
    "value_head",
    "v_head",
    "reward_head",
    "rm_head",
    "regression_head",
    "classifier",
    "scorer",
    "v_head.summary",
    "value_head.summary",
)
_LAYER: Final = re.compile(r"(.+)\.(\d+)\.weight")
_ONE: Final = "give a reward model with one linear head on the last token"


def find_head(names: Iterable[str], *, place: Path) -> str:
    """Return the name of the linear head, such as ``score``.

    Its tensors are ``NAME.weight`` and optionally ``NAME.bias``.

    Args:
        names: the names of all tensors outside the trunk.
        place: the folder, for error messages.

    Raises:
        ModelError: there is no linear head, or there are other layers; the message says what was found.
    """
    found = sorted(names)
    heads = [name for name in _NAMES if f"{name}.weight" in found]
    pooled = next((name for name in found if "pooler" in name or "dense" in name), None)
    if pooled is not None:
        raise ModelError(
            f"'{pooled}' belongs to a classifier over a pooled token, as in encoders, not to a single linear head",
            place=place,
            fix=_ONE,
        )
    if not heads:
        raise _missing(found, place)
    head = heads[0]
    others = [name for name in found if name not in (f"{head}.weight", f"{head}.bias")]
    if others == ["lm_head.weight"] and head != SCORE:
        raise ModelError(
            f"the folder holds a language model and '{head}.weight', like a critic saved by reinforcement learning",
            place=place,
            fix="give the reward model itself",
        )
    if others:
        raise ModelError(f"tensor '{others[0]}' is unexpected next to '{head}.weight'", place=place, fix=_ONE)
    return head


def has_head(names: Iterable[str]) -> bool:
    """Return whether ``names`` contains the weight of a known linear head."""
    return not {f"{head}.weight" for head in _NAMES}.isdisjoint(names)


def _missing(found: list[str], place: Path) -> ModelError:
    layers = [name for name in found if _LAYER.fullmatch(name)]
    if len(layers) > 1:
        return ModelError(
            f"the head has {len(layers)} layers ({', '.join(layers[:3])}), and the folder does not say what is "
            "computed between them",
            place=place,
            fix=_ONE,
        )
    other = f"; the folder has {short(found[:3])[1:-1]}" if found else ""
    return ModelError(
        f"tensor '{SCORE}.weight' is missing{other}",
        place=place,
        fix="give a checkpoint that was saved with its head (Transformers would initialise one at random and only log "
        "a warning)",
    )
