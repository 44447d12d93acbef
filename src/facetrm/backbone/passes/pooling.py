"""The forward passes of a bidirectional encoder: the prompt alone, and prompt and response as a pair, as means.

    prompt = mean of h over the prompt read alone          response = mean of h over the response's tokens of the pair

Rows of similar length stand in one batch, padded on the right with a mask made from the lengths; in ``exact`` mode a
batch is one row. Shapes: N conversations, P distinct prompts, L tokens of the longest row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.config import Mode
from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.lora.switching import known_adapters, switched
from facetrm.backbone.passes.batching import pad_right, token_batches
from facetrm.backbone.passes.engine import OnBatch
from facetrm.backbone.text.chat import Ids, Tokenized


@final
class MeanPooling:
    """Reads conversations with a bidirectional trunk, one thread at a time.

    Args:
        model: the trunk, in evaluation mode while it is read.
        mode: ``fast`` or ``exact``.
        token_budget: the most tokens of a batch, padding included, unless one row is longer.
        pad: any id that the model has.
        inputs: the arguments that the model's forward takes.
    """

    def __init__(
        self, model: PreTrainedModel, *, mode: Mode, token_budget: int, pad: int, inputs: frozenset[str]
    ) -> None:
        self.model, self.mode = model, mode
        self._budget, self._pad, self._inputs = 1 if mode == "exact" else token_budget, pad, inputs

    def read(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        """Return the means [N, D] of prompts and responses, float32 on the CPU; each prompt is read once.

        Args:
            rows: N conversations.
            on_batch: called with (rows, tokens) after each batch; the prompts are batches of no rows.
        """
        with switched(self.model, None):
            prompt_ND = self._prompts(rows, lambda _, tokens: on_batch(0, tokens))
            return prompt_ND, self._responses(rows, on_batch)

    def read_adapted(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, *, adapters: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return the means [N, D] of prompts, by the bare trunk, and [N, A, D] of responses, by each adapter.

        Args:
            rows: N conversations.
            on_batch: called with (rows, tokens) after each batch; those of all but the first adapter are of no rows.
            adapters: A names.

        Raises:
            BackboneError: an unknown name.
        """
        means_AND = []
        with trunk_lock(self.model):
            known_adapters(self.model, adapters)
            for number, name in enumerate(adapters):
                with switched(self.model, name):
                    told = on_batch if number == 0 else lambda _, tokens: on_batch(0, tokens)
                    means_AND.append(self._responses(rows, told))
            return self.read_prompts(rows), torch.stack(means_AND, dim=1)

    def read_prompts(self, rows: Sequence[Tokenized]) -> Tensor:
        """Return the means [N, D] of the prompts of ``rows``, by the bare trunk; each prompt is read once."""
        with switched(self.model, None):
            return self._prompts(rows, lambda rows, tokens: None)

    def _prompts(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> Tensor:
        prompts: dict[Ids, int] = {}
        which = [prompts.setdefault(row.prompt_ids, len(prompts)) for row in rows]
        types = {row.prompt_ids: row.prompt_types for row in rows}
        unique = list(prompts)
        spans = [(0, len(ids)) for ids in unique]
        return self._pooled(unique, [types[ids] for ids in unique], spans, on_batch)[which]

    def _responses(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> Tensor:
        spans = [(row.response_start, row.response_start + row.length) for row in rows]
        return self._pooled([row.ids for row in rows], [row.types for row in rows], spans, on_batch)

    def _pooled(
        self, ids: Sequence[Ids], types: Sequence[Ids], spans: Sequence[tuple[int, int]], on_batch: OnBatch
    ) -> Tensor:
        """Return the mean of the hidden states over ``[start, end)`` of each row."""
        mean_ND = torch.empty(len(ids), int(self.model.config.get_text_config().hidden_size), dtype=torch.float32)
        for batch in token_batches([len(row) for row in ids], token_budget=self._budget):
            hidden_NLD = self._hidden([ids[n] for n in batch], [types[n] for n in batch])
            means = [hidden_NLD[line, slice(*spans[n])].float().mean(dim=0) for line, n in enumerate(batch)]
            mean_ND[batch] = torch.stack(means).cpu()  # a device is waited for once a pass
            on_batch(len(batch), sum(len(ids[n]) for n in batch))
        return mean_ND

    def _hidden(self, ids: Sequence[Ids], types: Sequence[Ids]) -> Tensor:
        """Return the last hidden state, [N, L, D]."""
        ids_NL, mask_NL = pad_right(ids, pad=self._pad)
        inputs = {"input_ids": ids_NL, "attention_mask": mask_NL}
        if any(types) and "token_type_ids" in self._inputs:
            inputs["token_type_ids"] = pad_right(types, pad=0)[0]
        device = self.model.device
        cache = {"use_cache": False} if "use_cache" in self._inputs else {}
        output = self.model(**{name: tensor.to(device) for name, tensor in inputs.items()}, **cache)
        hidden_NLD: Tensor = output.last_hidden_state
        return hidden_NLD
