"""Conversations in windows of a few passes each: the next ones are tokenised while these are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from facetrm.backbone.text.chat import Tokenized
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation

_WINDOW: Final = 16  # characters tokenised at a time, per token of a pass: a few passes


def tokenized_ahead(
    conversations: Sequence[Conversation], tokenize: Callable[[Conversation, int], Tokenized], *, token_budget: int
) -> Iterator[tuple[list[int], list[Tokenized]]]:
    """Yield row numbers and rows, a few passes' worth at a time; answers to one prompt stand together.

    Args:
        conversations: the rows.
        tokenize: one row and its number.
        token_budget: tokens of a pass.

    Raises:
        BackboneError: a row that cannot be read; it names it.
    """
    prompts: dict[Conversation, list[int]] = {}
    for n, messages in enumerate(conversations):
        prompts.setdefault(tuple(messages[:-1]), []).append(n)
    windows: list[list[int]] = [[]]
    enough = _WINDOW * token_budget
    room = enough
    for numbers in prompts.values():
        if room < 0:
            windows.append([])
            room = enough
        windows[-1].extend(numbers)
        room -= sum(len(m.content) for n in numbers for m in conversations[n])

    def row(n: int) -> Tokenized:
        try:
            return tokenize(conversations[n], n)
        except BackboneError as exc:
            exc.row = n
            raise

    def tokenized(numbers: list[int]) -> list[Tokenized]:
        return [row(n) for n in numbers]

    if len(windows) == 1:
        yield windows[0], tokenized(windows[0])
        return
    with ThreadPoolExecutor(max_workers=1) as beside:
        ahead = beside.submit(tokenized, windows[0])
        for numbers, later in zip(windows, [*windows[1:], []], strict=True):
            rows = ahead.result()
            ahead = beside.submit(tokenized, later)
            yield numbers, rows
