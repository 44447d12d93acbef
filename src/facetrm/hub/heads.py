"""The one linear head of a scalar reward model, whatever its name; what cannot be read is named as what it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from facetrm.core.errors import ModelError, short

SCORE: Final = "score"
# Names under which a linear layer [1, D] on the last token was published; the first is that of Transformers.
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
    """Return the name of the linear head, such as ``score``: its tensors are ``NAME.weight`` and maybe ``NAME.bias``.

    Args:
        names: of the tensors beside the trunk's.
        place: the folder, for the message of an error.

    Raises:
        ModelError: there is none, or more than one linear layer; it says what is there.
    """
    found = sorted(names)
    heads = [name for name in _NAMES if f"{name}.weight" in found]
    pooled = next((name for name in found if "pooler" in name or "dense" in name), None)
    if pooled is not None:
        raise ModelError(
            f"a classifier over a pooled token ('{pooled}'), as encoders have it; one linear head is read",
            place=place,
            fix=_ONE,
        )
    if not heads:
        raise _missing(found, place)
    head = heads[0]
    others = [name for name in found if name not in (f"{head}.weight", f"{head}.bias")]
    if others == ["lm_head.weight"] and head != SCORE:
        raise ModelError(
            f"a language model with '{head}.weight' beside it: a critic of reinforcement learning is saved in this way",
            place=place,
            fix="give the reward model itself",
        )
    if others:
        raise ModelError(f"tensor '{others[0]}' is unexpected beside '{head}.weight'", place=place, fix=_ONE)
    return head


def has_head(names: Iterable[str]) -> bool:
    """Return whether a tensor among ``names`` is named as a linear head is."""
    return not {f"{head}.weight" for head in _NAMES}.isdisjoint(names)


def _missing(found: list[str], place: Path) -> ModelError:
    layers = [name for name in found if _LAYER.fullmatch(name)]
    if len(layers) > 1:
        return ModelError(
            f"a head of {len(layers)} layers ({', '.join(layers[:3])}): what is computed between them is not in the "
            "folder",
            place=place,
            fix=_ONE,
        )
    other = f"; it holds {short(found[:3])[1:-1]}" if found else ""
    return ModelError(
        f"tensor '{SCORE}.weight' is missing{other}",
        place=place,
        fix="give the checkpoint that was saved with its head: Transformers would draw one at random and say so "
        "in its log alone",
    )
