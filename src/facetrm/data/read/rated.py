"""From the columns of a rated row, in any layout, to its messages and ratings."""

from __future__ import annotations

from facetrm.core.errors import DataError, short
from facetrm.data.read.columns import Facts, Row, clean_ratings, need
from facetrm.data.read.pairs import continuation, is_echo, join
from facetrm.data.read.turns import messages, turns


def messages_and_ratings(row: Row, facts: Facts) -> Row:
    """Read ``messages`` and ``ratings`` (facetrm's own convention and packs) and remove them from ``row``.

    Args:
        row: columns of the row.
        facts: facts about the file, with the declared objectives.
    """
    ratings = clean_ratings(row.pop("ratings", None), facts.objectives)
    _check_alone(row, "messages")
    return {"messages": messages(need(row, "messages"), "messages"), "ratings": ratings}


def attributes(row: Row, facts: Facts) -> Row:
    """Read ``messages`` and the attribute columns (RLHFlow) and remove them from ``row``.

    Args:
        row: columns of the row.
        facts: facts about the file, with the names of the attribute columns.
    """
    said = messages(need(row, "messages"), "messages")
    _check_alone(row, "messages")
    return {"messages": said, "ratings": _attribute_ratings(row, facts)}


def prompt_and_response(row: Row, facts: Facts) -> Row:
    """Read ``prompt``, ``response`` (or ``completion``, ``answer``) and the attributes, and remove them from ``row``.

    Args:
        row: columns of the row.
        facts: facts about the file, with the names of the attribute columns.
    """
    key = next((name for name in ("response", "completion") if row.get(name) is not None), "answer")
    asked, answer = need(row, "prompt"), need(row, key)
    _check_alone(row, key)
    prompt = turns(asked, "prompt", "user")
    if prompt and is_echo(str(prompt[-1].get("content")), answer):
        raise DataError(
            f"'{key}' starts with the complete prompt ({short(answer, 60)})", fix=f"remove the prompt from '{key}'"
        )
    whole = join(prompt, turns(continuation(answer, asked, prompt), key, "assistant"), key)
    return {"messages": whole, "ratings": _attribute_ratings(row, facts)}


def _check_alone(row: Row, key: str) -> None:
    """Refuse a rejected answer that would be dropped beside the one in ``key``, whatever its column is called."""
    for name, value in row.items():
        if name.lower().startswith("rejected") and isinstance(value, str | list | dict) and value:
            raise DataError(
                f"'{name}' holds another answer beside '{key}' ({short(value, 60)})",
                fix="write prompt, chosen and rejected to use both, or take the column out",
            )


def _attribute_ratings(row: Row, facts: Facts) -> dict[str, float]:
    return clean_ratings({key: row.pop(key) for key in list(row) if key in facts.attributes}, facts.objectives)
