"""Mean pooling for bidirectional encoders: one pass over the prompt alone, one over the prompt-response pair.

    prompt = mean of h over the prompt alone          response = mean of h over the response tokens of the pair

Rows of similar length form a batch, padded on the right, with an attention mask built from their lengths. In ``exact``
mode each row is its own batch.

Shapes: N conversations, P distinct prompts, L tokens of the longest row, D hidden size, A layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.config import Mode
from facetrm.backbone.encoder import LAST, Layer
from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.lora.switching import known_adapters, switched
from facetrm.backbone.passes.batching import pad_right, token_batches
from facetrm.backbone.passes.engine import OnBatch
from facetrm.backbone.passes.tapping import LayerReading, check_layers, run_through
from facetrm.backbone.text.chat import Ids, Tokenized
from facetrm.core.progress import log

_LAST: Final = LayerReading((LAST,))


@final
class MeanPooling:
    """Runs a bidirectional trunk over conversations, one thread at a time.

    Args:
        model: trunk; it must be in evaluation mode during reads.
        mode: ``fast`` or ``exact``.
        token_budget: maximum tokens per batch, including padding; a longer row gets its own batch.
        pad: padding token id; any valid id works.
        inputs: names of the arguments of the model's forward method.
    """

    def __init__(
        self, model: PreTrainedModel, *, mode: Mode, token_budget: int, pad: int, inputs: frozenset[str]
    ) -> None:
        self.model, self.mode = model, mode
        self._budget, self._pad, self._inputs = 1 if mode == "exact" else token_budget, pad, inputs
        self._layers: frozenset[Layer] = frozenset()  # those that were checked
        self._stops: dict[int, bool] = {}

    def read(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        """Return the mean vectors [N, D] of prompts and of responses, float32 on the CPU; each prompt is read once.

        Args:
            rows: N tokenised conversations.
            on_batch: function called with (rows, tokens) after each batch; prompt batches count as 0 rows.
        """
        with switched(self.model, None):
            prompt_ND = self._prompts(rows, lambda _, tokens: on_batch(0, tokens))
            return prompt_ND, self._responses(rows, on_batch)[:, 0]

    def read_adapted(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, *, adapters: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean vectors [N, D] of prompts (bare trunk) and [N, A, D] of responses (each adapter).

        Args:
            rows: N tokenised conversations.
            on_batch: function called with (rows, tokens) after each batch; only the first adapter's batches count rows.
            adapters: names of A adapters.

        Raises:
            BackboneError: An adapter is unknown.
        """
        means_AND = []
        with trunk_lock(self.model):
            known_adapters(self.model, adapters)
            for number, name in enumerate(adapters):
                with switched(self.model, name):
                    told = on_batch if number == 0 else lambda _, tokens: on_batch(0, tokens)
                    means_AND.append(self._responses(rows, told)[:, 0])
            return self.read_prompts(rows), torch.stack(means_AND, dim=1)

    def read_layers(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, *, layers: tuple[Layer, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean vectors [N, D] of prompts in the last layer, and [N, A, D] of responses in each layer.

        Args:
            rows: N tokenised conversations.
            on_batch: function called with (rows, tokens) after each batch.
            layers: names of A layers, in order.

        Raises:
            BackboneError: A layer cannot be read.
        """
        if layers == (LAST,):
            prompt_ND, response_ND = self.read(rows, on_batch)
            return prompt_ND, response_ND.unsqueeze(1)
        with switched(self.model, None):
            if not self._layers.issuperset(layers):
                ids, types = rows[0].ids, rows[0].types
                check_layers(self.model, layers, lambda forward: self._hidden([ids], [types], forward=forward))
                self._layers |= set(layers)
            asked = LayerReading(layers)
            stopping = LayerReading(layers, asked.highest)
            if asked.highest not in self._stops:
                self._stops[asked.highest] = asked.highest > 0 and self._can_stop(rows[0], asked, stopping)
            return self.read_prompts(rows), self._responses(
                rows, on_batch, stopping if self._stops[asked.highest] else asked
            )

    def _can_stop(self, row: Tokenized, asked: LayerReading, stopping: LayerReading) -> bool:
        """Return whether ``row`` has the same vectors when the pass stops at the highest layer."""
        expected_NAD = self._responses([row], lambda rows, tokens: None, asked)
        try:
            reason = None
            same = torch.equal(self._responses([row], lambda rows, tokens: None, stopping), expected_NAD)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as exc:
            reason, same = (str(exc).strip() or type(exc).__name__).splitlines()[0], False
        if not same:
            log("stopping at a layer is off", reason=reason or "a text read up to it differs from itself")
        return same

    def read_prompts(self, rows: Sequence[Tokenized]) -> Tensor:
        """Return the mean vectors [N, D] of the prompts of ``rows``, from the bare trunk; each prompt is read once."""
        with switched(self.model, None):
            return self._prompts(rows, lambda rows, tokens: None)

    def _prompts(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> Tensor:
        prompts: dict[Ids, int] = {}
        which = [prompts.setdefault(row.prompt_ids, len(prompts)) for row in rows]
        types = {row.prompt_ids: row.prompt_types for row in rows}
        unique = list(prompts)
        spans = [(0, len(ids)) for ids in unique]
        return self._pooled(unique, [types[ids] for ids in unique], spans, on_batch)[which, 0]

    def _responses(self, rows: Sequence[Tokenized], on_batch: OnBatch, asked: LayerReading = _LAST) -> Tensor:
        """Return the mean vectors [N, A, D] of the responses in each layer."""
        spans = [(row.response_start, row.response_start + row.length) for row in rows]
        return self._pooled([row.ids for row in rows], [row.types for row in rows], spans, on_batch, asked)

    def _pooled(
        self,
        ids: Sequence[Ids],
        types: Sequence[Ids],
        spans: Sequence[tuple[int, int]],
        on_batch: OnBatch,
        asked: LayerReading = _LAST,
    ) -> Tensor:
        """Return the mean hidden state [N, A, D] of each layer over the span ``[start, end)`` of each row."""
        size = int(self.model.config.get_text_config().hidden_size)
        mean_NAD = torch.empty(len(ids), len(asked), size, dtype=torch.float32)
        for batch in token_batches([len(row) for row in ids], token_budget=self._budget):

            def means(hidden_NLD: Tensor, batch: Sequence[int] = batch) -> Tensor:
                return torch.stack(
                    [hidden_NLD[line, slice(*spans[n])].float().mean(dim=0) for line, n in enumerate(batch)]
                )

            def read(layers: int, batch: Sequence[int] = batch) -> Tensor:
                return self._hidden([ids[n] for n in batch], [types[n] for n in batch])

            found_NAD = run_through(self.model, asked, read, pick=means)[2]
            mean_NAD[batch] = found_NAD.cpu()  # synchronises with the device once per pass
            on_batch(len(batch), sum(len(ids[n]) for n in batch))
        return mean_NAD

    def _hidden(self, ids: Sequence[Ids], types: Sequence[Ids], *, forward: Callable[..., Any] | None = None) -> Tensor:
        """Return the last hidden states [N, L, D] of a batch."""
        ids_NL, mask_NL = pad_right(ids, pad=self._pad)
        inputs = {"input_ids": ids_NL, "attention_mask": mask_NL}
        if any(types) and "token_type_ids" in self._inputs:
            inputs["token_type_ids"] = pad_right(types, pad=0)[0]
        device = self.model.device
        cache = {"use_cache": False} if "use_cache" in self._inputs else {}
        read = self.model if forward is None else forward
        output = read(**{name: tensor.to(device) for name, tensor in inputs.items()}, **cache)
        hidden_NLD: Tensor = output.last_hidden_state
        return hidden_NLD
