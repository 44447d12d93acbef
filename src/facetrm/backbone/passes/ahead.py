"""Tokenise conversations in the background, in windows of a few forward passes each, ahead of the model.

Shapes: N conversations, A readings, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from facetrm.backbone.encoder import Features, Layer
from facetrm.backbone.text.chat import Tokenized
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation

_WINDOW: Final = 16  # characters tokenised at a time per token of the budget; makes a few passes


def tokenized_ahead(
    conversations: Sequence[Conversation], tokenize: Callable[[Conversation, int], Tokenized], *, token_budget: int
) -> Iterator[tuple[list[int], list[Tokenized]]]:
    """Yield the indices and tokens of a few passes' worth of conversations at a time.

    Conversations with the same prompt are yielded together. The next window is tokenised in a background thread.

    Args:
        conversations: conversations to tokenise.
        tokenize: function that tokenises one conversation, given the conversation and its index.
        token_budget: maximum tokens per pass.

    Raises:
        BackboneError: A conversation cannot be tokenised; the ``row`` of the error is its index.
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


def features_of(
    rows: Sequence[Tokenized], prompt_ND: Tensor, response_NAD: Tensor, *, layers: tuple[Layer, ...] = ()
) -> Features:
    """Return the vectors of tokenised conversations with what is known of their tokens.

    Args:
        rows: N tokenised conversations.
        prompt_ND: prompt vectors.
        response_NAD: response vectors.
        layers: layer of each of the A readings; empty if each is the last layer.
    """
    return Features(
        prompt_ND=prompt_ND,
        response_NAD=response_NAD,
        length_N=torch.tensor([row.length for row in rows]),
        tokens_N=torch.tensor([len(row.ids) for row in rows]),
        truncated_N=torch.tensor([row.truncated for row in rows]),
        unknown_N=torch.tensor([row.unknown for row in rows], dtype=torch.float32),
        layers=layers,
    )
