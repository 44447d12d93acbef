"""The forward passes behind the readings: the same conversations, scored the ways that users and servers do.

Shapes: N conversations, L tokens of the longest row of a batch, D hidden size.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.config import Mode
from facetrm.backbone.encoder import Features
from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.text.chat import Ids, Tokenized
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation
from facetrm.model.reward_model import RewardModel

BATCH: Final = 8
"""The number of rows per padded batch. Rows keep the order of the file, so short and long rows share batches."""

Side = Literal["alone", "right", "left"]


def rewards_of(model: RewardModel, features: Features) -> list[float]:
    """Return the rewards of N rows, including any that are not finite.

    Args:
        model: the model whose heads read the features.
        features: the features of N rows.
    """
    reward_N = torch.zeros(len(features))
    tasks_N = model.route(features)
    for index, task in enumerate(model.tasks):
        rows = torch.nonzero(tasks_N == index).flatten()
        if len(rows):
            reward_N[rows] = model.output(features.select(rows), task=task).reward_N
    found: list[float] = reward_N.tolist()
    return found


def padded_on(rows: Sequence[Ids], *, pad: int, side: Side) -> tuple[Tensor, Tensor, list[int]]:
    """Pad a batch.

    Args:
        rows: the token ids of N conversations.
        pad: the padding id.
        side: ``left`` or ``right``; ``alone`` for a single row, which needs no padding.

    Returns:
        The ids [N, L], the attention mask [N, L], and the index of each row's first token.
    """
    width = max(map(len, rows))
    ids_NL, mask_NL = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.int64)
    starts = [width - len(row) if side == "left" else 0 for row in rows]
    for n, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids_NL[n, start : start + len(row)] = torch.tensor(row)
        mask_NL[n, start : start + len(row)] = 1
    return ids_NL, mask_NL, starts


def in_batches(rows: Sequence[Any], side: Side) -> list[Sequence[Any]]:
    """Split ``rows`` into batches: of one row if ``side`` is ``alone``, else of :data:`BATCH` rows."""
    size = 1 if side == "alone" else BATCH
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@final
class Reader:
    """Runs tokenised conversations through a decoder trunk and scores them with the model's own heads.

    Args:
        model: the reward model; its encoder must be a :class:`TransformerEncoder` of a decoder.
        trunk: a trunk to use in place of the model's own, such as a copy in another precision.

    Raises:
        BackboneError: the encoder is not a decoder.
    """

    def __init__(self, model: RewardModel, *, trunk: PreTrainedModel | None = None) -> None:
        if not isinstance(model.encoder, TransformerEncoder) or model.encoder.kind != "decoder":
            raise BackboneError("the backbone is not a decoder", fix="score it through encode only")
        self.model, self.encoder = model, model.encoder
        self.trunk: PreTrainedModel = model.encoder.model if trunk is None else trunk
        self.pad = model.encoder.tokenizer.pad_token_id or 0

    def tokenized(self, conversations: Sequence[Conversation]) -> list[Tokenized]:
        """Tokenise the conversations as the engine does.

        Raises:
            BackboneError: a conversation cannot be read.
        """
        rows = []
        for n, messages in enumerate(conversations):
            try:
                rows.append(self.encoder.tokenize(messages, row=n))
            except BackboneError as exc:
                exc.row = n
                raise
        return rows

    def engine(self, rows: Sequence[Tokenized], *, mode: Mode) -> list[float]:
        """Return the rewards from facetrm's engine.

        Args:
            rows: the tokenised conversations.
            mode: ``exact`` (one conversation per pass) or ``fast`` (packed).
        """
        return self._engine_of(self.trunk, rows, mode=mode)

    def cast(self, dtype: torch.dtype) -> Reader:
        """Return a reader with a copy of the trunk in ``dtype``; the heads stay in float32.

        Args:
            dtype: the dtype of the copy.

        Raises:
            BackboneError: the trunk cannot be cast, for example because it is quantised.
        """
        try:
            trunk: Any = copy.deepcopy(self.trunk)
            return Reader(self.model, trunk=trunk.to(dtype))
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as exc:
            reason = " ".join(str(exc).split())[:120]
            raise BackboneError(f"the trunk cannot be cast to {dtype} ({reason})") from None

    def plain(self, rows: Sequence[Tokenized], *, side: Side, pad: int | None = None) -> list[float]:
        """Return the rewards from plain Transformers: padded batches with an attention mask, no ``position_ids``.

        Args:
            rows: the tokenised conversations.
            side: the padding side, or ``alone`` for batches of one.
            pad: the padding id; None uses the tokenizer's.
        """
        prompt, response = [], []
        takes = inspect.signature(self.trunk.forward).parameters
        cache = {"use_cache": False} if "use_cache" in takes else {}
        with torch.no_grad():
            for batch in in_batches(rows, side):
                fill = self.pad if pad is None else pad
                ids_NL, mask_NL, starts = padded_on([row.ids for row in batch], pad=fill, side=side)
                mask = {} if side == "alone" else {"attention_mask": mask_NL.to(self.trunk.device)}
                hidden_NLD = self.trunk(input_ids=ids_NL.to(self.trunk.device), **mask, **cache).last_hidden_state
                for n, (row, start) in enumerate(zip(batch, starts, strict=True)):
                    prompt.append(hidden_NLD[n, start + row.prompt_end].float().cpu())
                    response.append(hidden_NLD[n, start + len(row.ids) - 1].float().cpu())
        return self._rated(rows, torch.stack(prompt), torch.stack(response))

    def in_company(self, rows: Sequence[Tokenized]) -> list[float]:
        """Return the reward of each row when it is batched with a row of equal length, without padding.

        Args:
            rows: the tokenised conversations.
        """
        found = []
        for row, beside in zip(rows, companions(rows), strict=True):
            other = replace(row, ids=beside)
            found += self.plain([row, other], side="right")[:1]
        return found

    def oldest_dropped(self, conversations: Sequence[Conversation], *, tokens: int) -> list[float]:
        """Return the rewards when conversations are truncated to ``tokens`` tokens by dropping the oldest text."""
        config = self.encoder.config.model_copy(
            update={"max_tokens": tokens, "truncation": "drop_oldest", "mode": "exact"}
        )
        encoder = TransformerEncoder(self.trunk, self.encoder.tokenizer, config=config)
        return rewards_of(self.model, encoder.encode(conversations))

    def _engine_of(self, trunk: PreTrainedModel, rows: Sequence[Tokenized], *, mode: Mode) -> list[float]:
        engine = DecoderEngine(
            trunk,
            mode=mode,
            token_budget=self.encoder.config.token_budget,
            pad=self.pad,
            inputs=frozenset(inspect.signature(trunk.forward).parameters),
        )
        with torch.no_grad():
            return self._rated(rows, *engine.read(rows, lambda _rows, _tokens: None))

    def _rated(self, rows: Sequence[Tokenized], prompt_ND: Tensor, response_ND: Tensor) -> list[float]:
        features = Features(
            prompt_ND=prompt_ND,
            response_NAD=response_ND.unsqueeze(1),
            length_N=torch.tensor([row.length for row in rows]),
            tokens_N=torch.tensor([len(row.ids) for row in rows]),
            truncated_N=torch.zeros(len(rows), dtype=torch.bool),
        )
        return rewards_of(self.model, features)


def companions(rows: Sequence[Tokenized]) -> list[Ids]:
    """Return, for each row, ids of equal length with the same prompt and last token but another response.

    Args:
        rows: N tokenised conversations.
    """
    found = []
    for n, row in enumerate(rows):
        text = [t for other in (*rows[n + 1 :], *rows[: n + 1]) for t in other.ids[other.response_start : -1]] or [0]
        begin, end = row.response_start, max(len(row.ids) - 1, row.response_start)
        filled = (text * (1 + (end - begin) // len(text)))[: end - begin]
        found.append((*row.ids[:begin], *filled, *row.ids[end:]))
    return found


def mistakes(reader: Reader) -> dict[str, Callable[[Tokenized], Tokenized]]:
    """Return the known mistakes by name, each a function that applies the mistake to a tokenised conversation."""
    tokenizer = reader.encoder.tokenizer
    bos = tokenizer.bos_token_id
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    found: dict[str, Callable[[Tokenized], Tokenized]] = {
        "no end of turn": lambda row: _without_end(row, special),
        "last quarter cut": lambda row: _cut(row, max(2, len(row.ids) - len(row.ids) // 4)),
    }
    if bos is not None:
        found["double BOS"] = lambda row: _shifted(row, (bos, *row.ids), 1)
        found["no BOS"] = lambda row: _shifted(row, row.ids[1:], -1) if row.ids[0] == bos else row
    return found


def _shifted(row: Tokenized, ids: Ids, by: int) -> Tokenized:
    return replace(row, ids=ids, prompt_end=row.prompt_end + by, response_start=row.response_start + by)


def _without_end(row: Tokenized, special: set[int]) -> Tokenized:
    last = next((n for n in range(len(row.ids) - 1, row.response_start, -1) if row.ids[n] in special), None)
    return row if last is None else _cut(row, last)


def _cut(row: Tokenized, tokens: int) -> Tokenized:
    end = min(row.prompt_end, tokens - 1)
    start = min(row.response_start, tokens)
    return replace(row, ids=row.ids[:tokens], prompt_end=end, response_start=start, length=max(tokens - start, 0))
