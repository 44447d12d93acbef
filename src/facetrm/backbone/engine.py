"""The forward passes of a decoder: where the vectors of prompt and response come from.

    fast    the conversations of a call in packs without padding, each prompt once, equal conversations once
    exact   one conversation a pass, without padding: a score cannot depend on what else was asked, bit for bit

A model whose attention does not go through Transformers' interface, or that fails the check at the first call, is read
in padded batches instead of packs; the log says so. Where memory runs out, a pass is halved and tried again.

Shapes: N conversations, T tokens of a pack, L tokens of the longest row of a batch, D hidden size.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.batching import pad_right, token_batches
from facetrm.backbone.chat import Ids, Tokenized
from facetrm.backbone.packing import PackingError, pack_rows, read_pack
from facetrm.core.errors import BackboneError
from facetrm.core.progress import log

Mode: TypeAlias = Literal["fast", "exact"]
OnBatch: TypeAlias = Callable[[int, int], None]

_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
_STRETCHED: Final = frozenset({"dynamic", "longrope"})  # positions that depend on the longest row of a pass


@final
class DecoderEngine:
    """Reads conversations with a causal trunk.

    Args:
        model: the trunk, in evaluation mode while it is read.
        mode: ``fast`` or ``exact``.
        token_budget: the most tokens of a pass (of one conversation in ``exact``).
        pad: any id that the model has, for batches.
        inputs: the arguments that the model's forward takes.
    """

    def __init__(
        self, model: PreTrainedModel, *, mode: Mode, token_budget: int, pad: int, inputs: frozenset[str]
    ) -> None:
        self.model, self.mode, self.token_budget = model, mode, token_budget
        self._pad, self._inputs = pad, inputs
        self._packs: bool | None = None

    def read(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        """Return the vectors [N, D] where prompts end and those of the last tokens, float32 on the CPU.

        Args:
            rows: N conversations.
            on_batch: called with (rows, tokens) after each pass.

        Raises:
            BackboneError: memory does not hold a single conversation.
        """
        if self.mode == "exact":
            return self._exact(rows, on_batch)
        if self._packs is None:
            self._packs = self._can_pack()
        if self._packs:
            return self._packed(rows, on_batch)
        return self._padded(rows, on_batch)

    def _exact(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        prompt_ND, response_ND = self._empty(len(rows))
        for n, row in enumerate(rows):
            hidden_NLD = _unless_out_of_memory(partial(self._plain, [row.ids]))
            if hidden_NLD is None:
                raise _too_long(len(row.ids))
            prompt_ND[n], response_ND[n] = hidden_NLD[0, row.prompt_end].float(), hidden_NLD[0, -1].float()
            on_batch(1, len(row.ids))
        return prompt_ND.cpu(), response_ND.cpu()

    def _packed(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        prompt_ND, response_ND = self._empty(len(rows))
        ids, prompts = [row.ids for row in rows], [row.prompt_end + 1 for row in rows]

        def read(numbers: Sequence[int], budget: int) -> None:
            chosen = [ids[n] for n in numbers], [prompts[n] for n in numbers]
            for pack in pack_rows(*chosen, token_budget=budget):
                here = [numbers[i] for i in pack.rows]
                hidden_TD = _unless_out_of_memory(partial(read_pack, self.model, pack))
                if hidden_TD is None:
                    if len({ids[n] for n in here}) == 1:
                        raise _too_long(len(ids[here[0]]))
                    smaller = len(pack.ids) // 2
                    self._free(tokens=len(pack.ids), next_try=smaller)
                    read(here, smaller)
                    continue
                prompt_ND[here] = hidden_TD[pack.ends].float()
                response_ND[here] = hidden_TD[pack.lasts].float()
                on_batch(len(here), sum(len(ids[n]) for n in here))

        read(range(len(rows)), self.token_budget)
        # A prompt in several packs is read several times; its answers get one vector, or the gate weighs them apart.
        return _shared(prompt_ND.cpu(), ids, prompts), response_ND.cpu()

    def _padded(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        prompt_ND, response_ND = self._empty(len(rows))
        ids, prompts = [row.ids for row in rows], [row.prompt_end + 1 for row in rows]
        first: dict[Ids, int] = {}
        copies = [first.setdefault(row, n) for n, row in enumerate(ids)]

        def read(numbers: Sequence[int], budget: int) -> None:
            for batch in token_batches([len(ids[n]) for n in numbers], token_budget=budget):
                here = [numbers[i] for i in batch]
                hidden_NLD = _unless_out_of_memory(partial(self._plain, [ids[n] for n in here]))
                width = max(len(ids[n]) for n in here)
                if hidden_NLD is None:
                    if len(here) == 1:
                        raise _too_long(width)
                    self._free(tokens=width * len(here), next_try=width * (len(here) // 2))
                    read(here, width * (len(here) // 2))
                    continue
                at = torch.arange(len(here), device=hidden_NLD.device)
                prompt_ND[here] = hidden_NLD[at, [prompts[n] - 1 for n in here]].float()
                response_ND[here] = hidden_NLD[at, [len(ids[n]) - 1 for n in here]].float()
                on_batch(len(here), sum(len(ids[n]) for n in here))

        unique = list(first.values())
        read(unique, self.token_budget)
        on_batch(len(rows) - len(unique), 0)
        return _shared(prompt_ND.cpu()[copies], ids, prompts), response_ND.cpu()[copies]

    def _plain(self, rows: Sequence[Ids]) -> Tensor:
        """Return the last hidden states [N, L, D] of a batch padded on the right."""
        device = self.model.device
        ids_NL, mask_NL = pad_right(rows, pad=self._pad)
        inputs = {"input_ids": ids_NL.to(device)}
        if len(rows) > 1:
            inputs["attention_mask"] = mask_NL.to(device)
        if "position_ids" in self._inputs:
            inputs["position_ids"] = torch.arange(ids_NL.shape[1], device=device).expand_as(ids_NL)
        cache = {"use_cache": False} if "use_cache" in self._inputs else {}
        hidden_NLD: Tensor = self.model(**inputs, **cache).last_hidden_state
        return hidden_NLD

    def _empty(self, rows: int) -> tuple[Tensor, Tensor]:
        size = int(self.model.config.get_text_config().hidden_size)
        prompt_ND, response_ND = torch.empty(2, rows, size, device=self.model.device).unbind(0)
        return prompt_ND, response_ND

    def _can_pack(self) -> bool:
        """Read five short conversations in a pack and alone: they must agree, or a layer looks across conversations."""
        reason = self._why_not()
        if reason is not None:
            log("packing is off", reason=reason)
        return reason is None

    def _why_not(self) -> str | None:
        text = self.model.config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or {}
        kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
        if kinds & _STRETCHED:
            return f"positions of type {', '.join(sorted(kinds & _STRETCHED))} depend on the longest row of a pass"
        if "position_ids" not in self._inputs:
            return "the model takes no position_ids"
        vocabulary = int(text.vocab_size)
        rows = [tuple((7 * i * i + 3 * n) % vocabulary for i in range(1, 12 + n)) for n in range(2)]
        ids = [rows[0], rows[0][:5] + rows[1], rows[1], rows[0] + rows[1], rows[0][:7]]
        prompts = [5, 5, 4, 5, 5]
        (pack,) = pack_rows(ids, prompts, token_budget=10_000)
        with torch.no_grad():
            try:
                hidden_TD = read_pack(self.model, pack)
            except PackingError as exc:
                return str(exc)
            worst = 0.0
            for n, last in zip(pack.rows, pack.lasts, strict=True):
                alone_D = self._plain([ids[n]])[0, -1].float()
                worst = max(worst, float((hidden_TD[last].float() - alone_D).norm() / alone_D.norm().clamp_min(1e-6)))
        if worst > _TOLERANCE.get(self.model.dtype, 1e-3):
            return f"a conversation in a pack differs from itself alone by {worst:.2g} of its norm"
        return None

    def _free(self, *, tokens: int, next_try: int) -> None:
        log("out of memory", tokens=tokens, next_try=next_try)
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()


def _unless_out_of_memory(read: Callable[[], Tensor]) -> Tensor | None:
    """Return what ``read`` returns, or None where memory runs out (its error, which holds tensors, is gone by then)."""
    try:
        return read()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as exc:
        if "can't allocate memory" not in str(exc):  # what the allocator of a CPU says
            raise
        return None


def _shared(prompt_ND: Tensor, ids: Sequence[Ids], prompts: Sequence[int]) -> Tensor:
    """Return the vectors with those of equal prompts made equal: the first one's."""
    first: dict[Ids, int] = {}
    which = [first.setdefault(row[:prompt], n) for n, (row, prompt) in enumerate(zip(ids, prompts, strict=True))]
    return prompt_ND[which]


def _too_long(tokens: int) -> BackboneError:
    return BackboneError(
        f"memory does not hold a conversation of {tokens} tokens",
        fix="lower backbone.max_tokens, use a smaller dtype, or a device with more memory",
    )
