"""Find different answers that become the same tokens or get the same reward, and find the cause.

Each cause is tested before it is named: the difference was truncated; its words are unknown to the tokenizer; the chat
template drops it; the tokenizer maps both texts to the same tokens; or the reward does not depend on the tokens.
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
        "conversations are truncated, and the part that differs is cut off",
        "raise max_tokens, or score shorter conversations",
    ),
    "unknown": (
        "the words that differ are unknown to the tokenizer: they all become the same token",
        "use a model whose tokenizer knows the text",
    ),
    "template": (
        "the chat template renders both the same: it leaves out the part that differs",
        "use a template that writes the content of each turn unchanged",
    ),
    "tokenizer": (
        "the rendered texts differ, but the tokenizer maps both to the same tokens",
        "use the tokenizer that the model was trained with",
    ),
    "head": (
        "the tokens differ, but the reward does not depend on them: the head reads a token before the answer, or is "
        "constant",
        "check which token the head reads, and check its weights",
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
    """Return one finding for each cause that makes different answers to one prompt equal.

    Args:
        groups: the answers to each prompt, as full conversations.
        rows: the tokenised conversations, in order; empty if unknown.
        rewards: the rewards of all conversations, in order.
        render: renders a conversation with the chat template; None if there is none.
        knows: tells whether the tokenizer knows a word; None if that cannot be tested.
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
    """Yield the row numbers of every two answers to one prompt whose texts differ by more than white space."""
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
            pass  # the template cannot render them: the cause must be found in the tokens
    one, other = a[-1].content.split(), b[-1].content.split()
    apart = [word for word in (*one, *other) if word not in one or word not in other]
    return "unknown" if knows is not None and any(not knows(word) for word in apart) else "tokenizer"


def _finding(cause: str, count: int, pairs: int, flat: Sequence[Conversation], a: int, b: int) -> Finding:
    culprit, fix = _CAUSES[cause]
    what = "get the same reward" if cause == "head" else "become the same tokens"
    texts = f"{short(flat[a][-1].content, 50)} and {short(flat[b][-1].content, 50)}"
    return Finding(
        "answers-equal",
        "error",
        f"{count} of {pairs} pairs of different answers to one prompt {what}",
        f"rows {a} and {b}: {texts}",
        culprit,
        fix,
    )
