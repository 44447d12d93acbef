"""Answers that differ and are read as one, or get one reward: which, and what made them equal.

Each cause is tested before it is named: the answer was cut; its words are unknown; the template does not write it; the
tokenizer reads both texts alike; or all of it is read and the reward does not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from facetrm.backbone.text.chat import Tokenized
from facetrm.core.errors import FacetrmError, short
from facetrm.data.records import Conversation
from facetrm.doctor.drift import resolution
from facetrm.doctor.findings import Finding

RenderConversation = Callable[[Conversation], str]

_CAUSES = {
    "cut": (
        "conversations are cut before they are read, and what differs is cut away",
        "raise the limit of tokens, or score shorter conversations",
    ),
    "unknown": (
        "the words that differ are unknown to the tokenizer: all of them are one token",
        "take a model whose tokenizer knows the text",
    ),
    "template": (
        "the chat template renders both alike: it leaves out what differs",
        "give a template that writes the content of each turn as it is",
    ),
    "tokenizer": (
        "the rendered texts differ, and the tokenizer reads both as the same tokens",
        "use the tokenizer that the model was trained with",
    ),
    "head": (
        "the tokens differ, and the reward does not depend on them: it is read before the answer, or from a constant",
        "check where the head reads, and its weights",
    ),
}


def check_answers(
    groups: Sequence[Sequence[Conversation]],
    rows: Sequence[Tokenized],
    *,
    rewards: Sequence[float],
    render: RenderConversation | None = None,
    knows: Callable[[str], bool] | None = None,
) -> list[Finding]:
    """Return a finding for each cause that made answers to one prompt equal; none where all differ.

    Args:
        groups: the answers to each prompt, as whole conversations.
        rows: all of them as the model reads them, in order; empty where nothing tells.
        rewards: of all of them.
        render: gives the text that the template makes, None where there is no template.
        knows: whether the tokenizer knows a word, None where nothing tells.
    """
    pairs = list(_pairs(groups))
    if not pairs:
        return []
    flat = [answer for group in groups for answer in group]
    causes: Counter[str] = Counter()
    shown: dict[str, tuple[int, int]] = {}
    for a, b in pairs:
        if rows and rows[a].ids == rows[b].ids:
            cause = _cause(flat[a], flat[b], rows[a], rows[b], render, knows)
            causes[cause] += 1
            shown.setdefault(cause, (a, b))
    tied = [pair for pair in pairs if abs(rewards[pair[0]] - rewards[pair[1]]) <= resolution(rewards)]
    if not causes and len(tied) == len(pairs) and rows:
        causes["head"], shown["head"] = len(tied), tied[0]
    return [_finding(cause, count, len(pairs), flat, *shown[cause]) for cause, count in causes.items()]


def _pairs(groups: Sequence[Sequence[Conversation]]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of answers to one prompt whose texts differ by more than white space."""
    start = 0
    for group in groups:
        for (a, one), (b, other) in combinations(enumerate(group, start), 2):
            if one[-1].content.split() != other[-1].content.split():
                yield a, b
        start += len(group)


def _cause(
    a: Conversation,
    b: Conversation,
    row_a: Tokenized,
    row_b: Tokenized,
    render: RenderConversation | None,
    knows: Callable[[str], bool] | None,
) -> str:
    if row_a.truncated or row_b.truncated:
        return "cut"
    if render is not None:
        try:
            if render(a) == render(b):
                return "template"
        except FacetrmError:
            pass  # the template refuses to render them alone: the tokens must tell
    one, other = a[-1].content.split(), b[-1].content.split()
    apart = [word for word in (*one, *other) if word not in one or word not in other]
    return "unknown" if knows is not None and any(not knows(word) for word in apart) else "tokenizer"


def _finding(cause: str, count: int, pairs: int, flat: Sequence[Conversation], a: int, b: int) -> Finding:
    culprit, fix = _CAUSES[cause]
    what = "get the same reward" if cause == "head" else "are read as the same tokens"
    texts = f"{short(flat[a][-1].content, 50)} and {short(flat[b][-1].content, 50)}"
    return Finding(
        "answers-equal",
        "error",
        f"{count} of {pairs} pairs of different answers to one prompt {what}",
        f"rows {a} and {b}: {texts}",
        culprit,
        fix,
    )
