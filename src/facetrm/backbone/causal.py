"""What a causal language model says about given token ids: next-token logits, and log-probabilities of responses.

Rows of similar length are batched, padded on the left, so that the positions that matter stand at the end of each row
and only their logits are computed. Equal rows are read once.

Shapes: N rows, L tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

from facetrm.backbone.config import Mode
from facetrm.backbone.exclusive import evaluating
from facetrm.backbone.headed import HeadedModel
from facetrm.backbone.passes.batching import token_batches
from facetrm.backbone.text.chat import Ids, Tokenized


@final
class CausalReader:
    """Reads logits and log-probabilities from a causal language model, in float32.

    Args:
        headed: Model with a language-model head.
        token_budget: Maximum number of tokens of one pass, padding included.
        mode: ``fast`` reads several rows in one pass; ``exact`` reads one, so that no row depends on another.
    """

    def __init__(self, headed: HeadedModel, *, token_budget: int = 4096, mode: Mode = "fast") -> None:
        self._model: Any = headed.model
        self._trunk = headed.encoder.model
        self._pad = headed.encoder.pad
        self._budget = token_budget if mode == "fast" else 1
        self._accepts = set(inspect.signature(type(headed.model).forward).parameters)

    def next_logits(self, rows: Sequence[Ids], tokens: Sequence[int]) -> Tensor:
        """Return the logits of ``tokens`` after each row, [N, number of tokens].

        Args:
            rows: Token ids of N rows.
            tokens: Token ids whose logits are returned.
        """
        different = list(dict.fromkeys(rows))
        found = torch.zeros(len(different), len(tokens))
        wanted = torch.tensor(list(tokens))
        for numbers, logits_NLV in self._passes(different, [1] * len(different)):
            found[numbers] = logits_NLV[:, -1].cpu()[:, wanted]
        place = {row: n for n, row in enumerate(different)}
        return found[[place[row] for row in rows]]

    def response_log_probs(self, rows: Sequence[Tokenized]) -> Tensor:
        """Return the log-probability of each response given its prompt, [N]: the sum over all tokens of the response.

        The end-of-turn token, and a line break that the template writes after it, are part of the response.

        Args:
            rows: N tokenised conversations.
        """
        keys = [(row.ids, len(row.ids) - row.response_start) for row in rows]
        different = list(dict.fromkeys(keys))
        found = torch.zeros(len(different), dtype=torch.float64)
        lengths = [length for _, length in different]
        for numbers, logits_NLV in self._passes([ids for ids, _ in different], [length + 1 for length in lengths]):
            for row, number in enumerate(numbers):
                length = lengths[number]
                logits_LV = logits_NLV[row, -length - 1 : -1]
                target_L = torch.tensor(different[number][0][-length:], device=logits_LV.device)
                picked_L = logits_LV.gather(1, target_L[:, None])[:, 0]
                found[number] = (picked_L - logits_LV.logsumexp(dim=1)).double().sum().cpu()
        place = {key: n for n, key in enumerate(different)}
        return found[[place[key] for key in keys]]

    def _passes(self, rows: Sequence[Ids], keep: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield indices of rows and the logits at the last positions of each, float32."""
        with evaluating(self._trunk), torch.inference_mode():
            for numbers in token_batches([len(row) for row in rows], token_budget=self._budget):
                kept = max(keep[n] for n in numbers)
                ids_NL, mask_NL = pad_left([rows[n] for n in numbers], pad=self._pad)
                given: dict[str, Any] = {"input_ids": ids_NL, "attention_mask": mask_NL}
                if "position_ids" in self._accepts:
                    given["position_ids"] = (mask_NL.cumsum(dim=1) - 1).clamp(min=0)
                given = {name: tensor.to(self._trunk.device) for name, tensor in given.items()}
                if "logits_to_keep" in self._accepts:
                    given["logits_to_keep"] = kept
                logits_NLV: Tensor = self._model(**given, use_cache=False).logits
                yield numbers, logits_NLV[:, -kept:].float()


def pad_left(rows: Sequence[Sequence[int]], *, pad: int) -> tuple[Tensor, Tensor]:
    """Pad rows on the left to the length L of the longest one.

    Args:
        rows: Token ids of N rows.
        pad: Padding token id; it may also occur in the rows.

    Returns:
        ``ids_NL`` (int64), and the attention mask ``mask_NL`` (int64; 1 for tokens, 0 for padding).
    """
    width = max(len(row) for row in rows)
    ids_NL = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask_NL = torch.zeros((len(rows), width), dtype=torch.int64)
    for n, row in enumerate(rows):
        ids_NL[n, width - len(row) :] = torch.tensor(row, dtype=torch.int64)
        mask_NL[n, width - len(row) :] = 1
    return ids_NL, mask_NL
