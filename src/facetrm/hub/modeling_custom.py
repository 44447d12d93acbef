"""A gated multi-objective reward model in the layout of ArmoRM, for use with Transformers only.

This file is part of an exported model folder. It needs only PyTorch and Transformers:

    model = AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)

    rewards       = hidden state of the last token @ regression_layer.T (+ objective_bias)      one column per objective
    gating_output = softmax(gating(hidden state at the end of the prompt) / temperature) * logit_scale
    score         = sum(gating_output * (rewards @ reward_transform_matrix))

The heads compute in float32, whatever the dtype of the trunk. The prompt ends at the last occurrence of
``gating_token_pattern``: the ids from the token that closes the last user turn to the last control token before the
response.

Reference: ArmoRM (arXiv 2406.12845), sections 3.1 to 3.3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel, PreTrainedModel
from transformers.utils.generic import ModelOutput


class GatingNetwork(nn.Module):
    """A multi-layer perceptron and a softmax over the objectives, in float32.

    Args:
        config: a configuration with ``hidden_size``, ``num_objectives``, ``gating_hidden_dim``, ``gating_n_hidden``
            and ``gating_temperature``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.temperature = float(config.gating_temperature)
        self.logit_scale = nn.Parameter(torch.ones(1))
        sizes = [config.hidden_size, *[config.gating_hidden_dim] * config.gating_n_hidden, config.num_objectives]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights of the objectives, [B, K]. Each row sums to ``logit_scale``.

        Args:
            x: the prompt vectors, [B, D].
        """
        for layer in self.layers[:-1]:
            x = torch.relu(_linear(layer, x))
        logits = _linear(self.layers[-1], x) / self.temperature
        return torch.softmax(logits, dim=-1) * self.logit_scale.float()


@dataclass
class CustomOutput(ModelOutput):
    """The output of a model for B conversations.

    Attributes:
        rewards: the ratings of the objectives before the transform, [B, K].
        hidden_state: the hidden state at the last token, [B, D].
        prompt_embedding: the hidden state at the end of the prompt, [B, D].
        gating_output: the weights of the objectives, [B, K].
        score: the reward, [B].
        logits: the reward as a column, [B, 1].
    """

    rewards: Tensor | None = None
    hidden_state: Tensor | None = None
    prompt_embedding: Tensor | None = None
    gating_output: Tensor | None = None
    score: Tensor | None = None
    logits: Tensor | None = None


class LlamaForRewardModelWithGating(PreTrainedModel):
    """A reward model with a trunk, regression heads, a reward transform and a gate.

    Args:
        config: the configuration of the trunk, with the entries for the heads that the export adds.
    """

    config_class = LlamaModel.config_class
    base_model_prefix = LlamaModel.base_model_prefix
    supports_gradient_checkpointing = True
    _no_split_modules = LlamaModel._no_split_modules
    _supports_sdpa = getattr(LlamaModel, "_supports_sdpa", True)
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["regression_layer", "reward_transform_matrix", "gating"]  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        if getattr(config, "attn_logit_softcapping", None) and config._attn_implementation == "sdpa":
            config._attn_implementation = "eager"  # SDPA would ignore the soft cap
        super().__init__(config)
        setattr(self, self.base_model_prefix, LlamaModel(config))
        objectives = config.num_objectives
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives), requires_grad=False)
        self.gating = GatingNetwork(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Any = None, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> CustomOutput:
        """Return the ratings, weights and scores of B rendered conversations.

        Args:
            input_ids: the token ids, [B, L], from ``tokenizer.apply_chat_template``: a tensor, or a mapping that
                holds the tensor and optionally its attention mask.
            attention_mask: 1 for tokens and 0 for padding, [B, L]. If None, ``pad_token_id`` at either end is padding.
            position_ids: the positions for the trunk, [B, L]. If None, they count from each row's first token.

        Raises:
            ValueError: a row does not contain the tokens that open the response, or padding cannot be recognised.
        """
        if isinstance(input_ids, Mapping):
            attention_mask = input_ids.get("attention_mask", attention_mask)
            input_ids = input_ids["input_ids"]
        mask = attention_mask
        if mask is None:
            opening = getattr(self.config, "opening_token_id", None)
            mask = real_tokens(input_ids, pad=self.config.pad_token_id, opening=opening)
        trunk = self.base_model
        positions = positions_of(mask, trunk) if position_ids is None else {"position_ids": position_ids}
        hidden = trunk(input_ids=input_ids, attention_mask=mask, use_cache=False, **positions)[0]
        rows = torch.arange(len(input_ids), device=hidden.device)
        last, ends = last_tokens(mask), prompt_ends(input_ids, self.config.gating_token_pattern, mask)
        hidden_state, prompt_embedding = hidden[rows, last], hidden[rows, ends]
        header = getattr(self.config, "response_header", self.config.gating_token_pattern)
        lengths = response_lengths(input_ids, ends, last, header)
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            rewards = self._rewards(hidden_state.float(), lengths)
            gating_output = self.gating(prompt_embedding.float())
            score = (gating_output * (rewards @ self.reward_transform_matrix.float())).sum(dim=-1)
        return CustomOutput(
            rewards=rewards,
            hidden_state=hidden_state,
            prompt_embedding=prompt_embedding,
            gating_output=gating_output,
            score=score,
            logits=score[:, None],
        )

    def _rewards(self, hidden_state: Tensor, lengths: Tensor) -> Tensor:
        """Return the ratings, [B, K]; ``lengths`` [B] are the numbers of tokens of the responses."""
        rewards = _linear(self.regression_layer, hidden_state)
        bias = getattr(self.config, "objective_bias", None)
        if bias is not None:
            rewards = rewards + torch.tensor(bias, device=rewards.device)
        scale = getattr(self.config, "length_expert", None)
        if scale is not None:
            tokens = lengths.double()
            low, high = scale["low"], scale["high"]
            if scale["log"]:
                tokens, low, high = torch.log1p(tokens), math.log1p(low), math.log1p(high)
            unit = (tokens - low) / (high - low)
            unit = 1.0 - unit if scale["direction"] == "lower" else unit
            rewards = torch.cat([rewards[:, :-1], unit.float()[:, None].to(rewards.device)], dim=1)
        return rewards


def real_tokens(input_ids: Tensor, *, pad: int | None, opening: int | None) -> Tensor:
    """Return the attention mask, [B, L], of conversations with padding at either end or without padding.

    Args:
        input_ids: the token ids, [B, L].
        pad: the padding id. None is allowed only for a single conversation, which then has no padding.
        opening: the id that opens every conversation, or None. If it is also the padding id, the last one at the
            beginning of a row is a token and not padding.

    Raises:
        ValueError: there are several conversations and no padding id.
    """
    if pad is None:
        if len(input_ids) == 1:
            return torch.ones_like(input_ids)
        raise ValueError("several conversations need an attention_mask, or a pad_token_id in the configuration")
    real = (input_ids != pad).long()
    seen = real.cumsum(-1) > 0
    if pad == opening:
        seen = torch.cat([seen[:, 1:], seen[:, -1:]], dim=1)
    return (seen & (real.flip(-1).cumsum(-1).flip(-1) > 0)).long()


def prompt_ends(input_ids: Tensor, pattern: Sequence[int], mask: Tensor) -> Tensor:
    """Return the position of the token that closes each prompt, [B]: where ``pattern`` last begins in the row.

    Args:
        input_ids: the token ids, [B, L].
        pattern: the ids from the token that closes the prompt to the last control token before the response.
        mask: 1 for tokens and 0 for padding, [B, L]. Padding may look like a control token.

    Raises:
        ValueError: a row does not contain the pattern.
    """
    wanted = torch.tensor(list(pattern), device=input_ids.device)
    found = torch.zeros(len(input_ids), 1, dtype=torch.bool)
    if input_ids.shape[1] >= len(wanted):
        found = (input_ids.unfold(1, len(wanted), 1) == wanted).all(dim=-1)
        found = found & mask.bool().unfold(1, len(wanted), 1).all(dim=-1)
    missing = (~found.any(dim=1)).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"conversation {missing[0]} does not contain the tokens {list(pattern)} that open the response: "
            "render it with the chat template of this folder, and do not truncate these tokens"
        )
    return found.shape[1] - 1 - found.flip(1).int().argmax(dim=1)


def response_lengths(input_ids: Tensor, ends: Tensor, last: Tensor, header: Sequence[int]) -> Tensor:
    """Return the number of tokens of each response including its end of turn, [B].

    Args:
        input_ids: the token ids, [B, L].
        ends: the position of the token that closes each prompt, [B].
        last: the position of each row's last token, [B].
        header: the ids from the end of the prompt to the text of the response. If the tokenizer merges the last of
            them with the beginning of the text, the merged token belongs to the response.
    """
    wanted = torch.tensor(list(header), device=input_ids.device)
    places = (ends[:, None] + torch.arange(len(wanted), device=ends.device)).clamp(max=input_ids.shape[1] - 1)
    shared = (input_ids.gather(1, places) == wanted).long().cumprod(dim=-1).sum(dim=-1)
    start = torch.minimum((ends + shared).clamp(min=1), last).maximum(ends + 1)
    return last - torch.minimum(start, last) + 1


def positions_of(mask: Tensor, trunk: nn.Module) -> dict[str, Tensor]:
    """Return the trunk's ``position_ids`` argument, [B, L], as a dict; an empty dict if the trunk does not take it.

    Args:
        mask: 1 for tokens and 0 for padding, [B, L]. Padding is not counted.
        trunk: the module that reads the ids.
    """
    if "position_ids" not in inspect.signature(trunk.forward).parameters:
        return {}
    return {"position_ids": (mask.long().cumsum(dim=-1) - 1).clamp(min=0)}


def last_tokens(mask: Tensor) -> Tensor:
    """Return the position of each row's last token, [B], from an attention mask, [B, L]."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask.long() * places).argmax(dim=-1)


def _linear(layer: Any, x: Tensor) -> Tensor:
    """Apply ``layer`` in float32."""
    bias = None if layer.bias is None else layer.bias.float()
    return nn.functional.linear(x, layer.weight.float(), bias)
