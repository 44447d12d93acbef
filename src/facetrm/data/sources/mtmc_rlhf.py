"""MTMC-RLHF: Chinese dialogues with a task label and several replies to the last turn, ranked by annotators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from facetrm.core.errors import DataError
from facetrm.data.read.columns import Row, short, validate
from facetrm.data.records import Preference
from facetrm.data.sources.raw import RawTurns, items, number, value
from facetrm.data.sources.registry import Dropped, Records, source

MTMC_TASKS = {
    "角色扮演": "roleplay",
    "闲聊": "chat",
    "主观知识问答": "subj_qa",
    "客观知识问答": "obj_qa",
    "文本创作": "text",
}


def _texts(row: Row, key: str) -> list[str]:
    """Return the texts in column ``key``; a null item is an empty text, and a null column is an empty list."""
    found = [] if value(row, key) is None else items(row, key)
    for content in found:
        if content is not None and not isinstance(content, str):
            raise DataError(f"'{key}' holds {short(content)}, not text", fix="fix the row")
    return [content or "" for content in found]


def _task(row: Row) -> tuple[str | None, str | None]:
    """Return the label as written, and the task that it names: one of the five tasks, in Chinese or English."""
    label = value(row, "label")
    if label is not None and not isinstance(label, str):
        raise DataError(f"'label' is {short(label)}, not text", fix="write the name of the task, or null")
    written = (label or "").strip()
    return written or None, written if written in MTMC_TASKS.values() else MTMC_TASKS.get(written)


def _prompt(queries: Sequence[str], replies: Sequence[str]) -> RawTurns | Dropped:
    if not queries or len(replies) != len(queries) - 1:
        return Dropped("not one reply to every query but the last")
    if not all(text.strip() for text in (*queries, *replies)):
        return Dropped("an empty turn")
    said = [
        turn
        for asked, replied in zip(queries, [*replies, ""], strict=True)
        for turn in ({"role": "user", "content": asked}, {"role": "assistant", "content": replied})
    ]
    return said[:-1]


@source(
    "mtmc-rlhf",
    hub="quanshr/mtmc-rlhf",
    kind="preference",
    licence="Apache-2.0",
    citation="Quan 2024, DMoERM: Recipes of Mixture-of-Experts for Effective Reward Modeling (arXiv 2403.01197)",
    columns=("label", "src", "tgt", "response", "rank"),
)
def mtmc_rlhf(row: Row) -> Records:
    """Columns ``label, src, tgt, response, rank``: the whole dialogue is the prompt, the lowest rank is the best reply.

    A row without equal ranks becomes one record with all its replies, best first. A record cannot represent a tie, so a
    row with equal ranks becomes one record for every two replies of unequal rank. Replies without a rank, and pairs
    with the same text, are left out.

    ``task`` is the label if it names one of the five tasks. On other rows (logic, mathematics, code, translation) it is
    absent, and a router can predict it. ``subset`` keeps the label as written.
    """
    label, task = _task(row)
    prompt = _prompt(_texts(row, "src"), _texts(row, "tgt"))
    replies, ranks = _texts(row, "response"), [number({"rank": rank}, "rank") for rank in items(row, "rank")]
    if isinstance(prompt, Dropped):
        yield prompt
        return
    if len(replies) != len(ranks):
        yield Dropped("as many ranks as replies are needed")
        return
    ranked: list[tuple[float, str]] = []
    for reply, rank in zip(replies, ranks, strict=True):
        if rank is None or not reply.strip():
            yield Dropped("a reply without a rank" if rank is None else "an empty reply")
        else:
            ranked.append((rank, reply))
    if len(ranked) < 2:
        yield Dropped("fewer than two ranked replies")
        return
    ranked.sort(key=lambda item: item[0])
    orders = [[reply for _, reply in ranked]]
    if any(len({item[part] for item in ranked}) < len(ranked) for part in (0, 1)):
        orders = []
        for (rank_a, a), (rank_b, b) in itertools.combinations(ranked, 2):
            if rank_a == rank_b or a == b:
                yield Dropped("equal ranks" if rank_a == rank_b else "equal texts")
            else:
                orders.append([a, b])
    for order in orders:
        responses = [{"role": "assistant", "content": reply} for reply in order]
        side = {"task": task, "subset": label}
        yield cast(Preference, validate(Preference, {"prompt": prompt, "responses": responses, **side}))
