"""PKU-SafeRLHF-30K: pairs of answers to risky prompts, with separate verdicts on helpfulness and safety."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import number, preferred, text, user
from facetrm.data.sources.registry import Dropped, Records, source


@source(
    "pku-saferlhf-30k",
    hub="PKU-Alignment/PKU-SafeRLHF-30K",
    kind="preference",
    licence="CC-BY-NC-4.0",
    citation="Dai et al. 2023, Safe RLHF: Safe Reinforcement Learning from Human Feedback (arXiv 2310.12773)",
    task="safety",
)
def pku_saferlhf(row: Row) -> Records:
    """``safer_response_id`` decides; the verdicts on helpfulness and safety go to ``meta``.

    That ArmoRM's gate was fitted on the safety verdict is an inference.
    """
    safer = number(row, "safer_response_id")
    if safer not in (0.0, 1.0):
        raise DataError(f"'safer_response_id' is {row['safer_response_id']!r}", fix="it must be 0 or 1")
    first, second = (int(safer), 1 - int(safer)) if safer is not None else (0, 1)
    chosen, rejected = text(row, f"response_{first}"), text(row, f"response_{second}")
    if chosen == rejected:
        yield Dropped("equal texts")
        return
    meta = {
        "chosen_is_safe": row.get(f"is_response_{first}_safe"),
        "rejected_is_safe": row.get(f"is_response_{second}_safe"),
        "chosen_is_more_helpful": None if row.get("better_response_id") is None else row["better_response_id"] == first,
    }
    meta = {key: verdict for key, verdict in meta.items() if verdict is not None}
    yield preferred(user(text(row, "prompt")), chosen, rejected, meta=meta)
