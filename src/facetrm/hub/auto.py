"""Load facetrm folders with ``AutoModelForSequenceClassification``. Importing facetrm registers the class.

    logits [B, 1] = reward      problem_type: regression      id2label: the objectives

Programs that tokenise themselves (TRL with ``reward_funcs=FOLDER``) render with the folder's template, pad on either
side and call the model. The prompt ends at the last occurrence of ``gating_token_pattern``. The heads compute in
float32 even inside an autocast or after ``.to(bfloat16)``.

Shapes: B conversations, L tokens, D hidden size, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, final

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils.generic import ModelOutput

from facetrm.backbone.checkpoint import name_on_hub
from facetrm.backbone.encoder import LAST, Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ModelError
from facetrm.hub.auto_door import FacetrmConfig
from facetrm.hub.load import load_model, local_folder
from facetrm.hub.modeling_custom import last_tokens, positions_of, prompt_ends, real_tokens, response_lengths
from facetrm.model.door import MODEL_TYPE
from facetrm.model.output import RewardOutput
from facetrm.model.reward_model import RewardModel

_READ: Final = frozenset({"config", "dtype", "torch_dtype", "device_map", "revision", "output_loading_info"})
# Arguments that the Auto classes add, and arguments without effect here.
_HARMLESS: Final = frozenset(
    {"trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "_from_auto", "_commit_hash", "adapter_kwargs"}
)


@dataclass
class RewardModelOutput(ModelOutput):
    """The output of a model for B conversations.

    Attributes:
        logits: the rewards, [B, 1].
        rewards: the experts' scores, [B, K]; None if the model has several tasks.
        contributions: each expert's contribution to the reward, [B, K]; None if the model has several tasks.
        gating_output: the gate's weights, [B, K]; None if the model has several tasks or no gated sum.
        base: the base of each reward, [B]. The reward is the base plus the contributions.
        hidden_state: the hidden state at the last token of each conversation, [B, D]. The experts read it; if they read
            several layers, it is that of the highest.
        prompt_embedding: the hidden state at the token that closes the prompt, [B, D]. The gate and the router read it.
    """

    logits: Tensor | None = None
    rewards: Tensor | None = None
    contributions: Tensor | None = None
    gating_output: Tensor | None = None
    base: Tensor | None = None
    hidden_state: Tensor | None = None
    prompt_embedding: Tensor | None = None


class _Float32(nn.ModuleDict):
    """Heads that move to the trunk's device but stay in float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Float32:
        here = next(self.parameters(), torch.empty(0))
        there = fn(torch.empty(0, device=here.device)).device
        super()._apply(lambda tensor: tensor.to(there), recurse)  # type: ignore[no-untyped-call]
        return self


@final
class FacetrmForSequenceClassification(PreTrainedModel):
    """A facetrm reward model behind the interface of a Transformers classifier.

    Args:
        config: the configuration of the model folder.
        reward_model: the model whose trunk and heads it uses.

    Raises:
        ModelError: the backbone is not a decoder, or experts have their own adapters.
    """

    config_class = FacetrmConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FacetrmConfig, reward_model: RewardModel) -> None:
        super().__init__(config)
        encoder = reward_model.encoder
        if not isinstance(encoder, TransformerEncoder) or encoder.kind != "decoder":
            raise ModelError(
                "the backbone is not a decoder", place=config.name_or_path or None, fix="score with facetrm.load_model"
            )
        if reward_model.adapters:
            raise ModelError(
                f"the experts use {len(reward_model.adapters)} adapters, but a classifier makes a single pass",
                place=config.name_or_path or None,
                fix="score with facetrm.load_model",
            )
        self.model = encoder.model
        parts: dict[str, nn.Module] = {f"mixture-{n}": part for n, part in enumerate(reward_model.mixtures.values())}
        if reward_model.router is not None:
            parts["router"] = reward_model.router
        self.heads = _Float32(parts)
        self._reward_model = reward_model
        self.eval()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model that ``RewardModel.save`` or ``facetrm run`` wrote.

        Args:
            pretrained_model_name_or_path: a model folder, or the name of a model on the Hub.
            args: positional arguments are refused.
            kwargs: ``config``, ``dtype``, ``device_map`` (one device), ``revision``, and what AutoModel passes on.

        Raises:
            ModelError: the folder is broken, or an argument is not supported.
        """
        place = str(pretrained_model_name_or_path)
        given = {name: v for name, v in kwargs.items() if v is not None and v is not False}
        unknown = sorted(given.keys() - _READ - _HARMLESS)
        if args or unknown:
            raise ModelError(
                f"argument {unknown[0] if unknown else args[0]!r} is not supported",
                place=place,
                fix="give only dtype, device_map, revision or config",
            )
        if not Path(place).is_dir() and name_on_hub(place) is None:
            place = f"hf://{place}"  # Transformers has found its configuration on the Hub
        revision, trusted = kwargs.get("revision"), kwargs.get("trust_remote_code") is True
        device = _device(kwargs.get("device_map"), place)
        model = load_model(place, device=device, revision=revision, trust_remote_code=trusted)
        folder = local_folder(place, revision=revision)
        loaded = cls(kwargs.get("config") or FacetrmConfig.from_pretrained(folder), model)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if dtype not in (None, "auto"):
            wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
            if not isinstance(wanted, torch.dtype):
                raise ModelError(f"dtype {dtype!r}", place=place, fix="give float32, bfloat16 or float16")
            cast(nn.Module, loaded).to(wanted)
        if kwargs.get("output_loading_info"):
            nothing = {name: set[str]() for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
            return loaded, {**nothing, "error_msgs": []}
        return loaded

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, is_main_process: bool = True, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write a facetrm model folder, including the backbone.

        Args:
            save_directory: a new or empty folder, or an earlier facetrm model folder.
            is_main_process: whether this process writes; with several processes, only one may.
            push_to_hub: must be False. Use ``facetrm.push_to_hub``, which also writes the model card.
            kwargs: other arguments of Transformers; ignored.

        Raises:
            ModelError: the folder holds other files, or ``push_to_hub`` is True.
        """
        if push_to_hub:
            raise ModelError("push_to_hub is given", place=save_directory, fix="use facetrm.push_to_hub")
        if is_main_process:
            self._reward_model.save(save_directory, backbone="copy")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_: Any,
    ) -> RewardModelOutput:
        """Return the rewards of B rendered conversations.

        Args:
            input_ids: the token ids, [B, L], rendered with the folder's chat template and without extra special tokens.
            attention_mask: 1 for tokens and 0 for padding, [B, L]. If None, ``pad_token_id`` at either end is padding.
            position_ids: the positions for the trunk, [B, L]. If None, they count from each row's first token.

        Raises:
            ValueError: ``input_ids`` is None, or a row does not contain the tokens that open the response.
        """
        if input_ids is None:
            raise ValueError("input_ids are missing; they are needed to find the end of the prompt")
        mask = attention_mask
        if mask is None:
            mask = real_tokens(input_ids, pad=self.config.pad_token_id, opening=self.config.opening_token_id)
        pattern = self.config.gating_token_pattern
        last_B, end_B = last_tokens(mask), prompt_ends(input_ids, pattern, mask)
        positions = positions_of(mask, self.model) if position_ids is None else {"position_ids": position_ids}
        layers = self._reward_model.layers
        more = {"output_hidden_states": True} if layers else {}
        trunk = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False, **positions, **more)
        hidden_BLD = trunk.last_hidden_state
        states = [hidden_BLD if layer == LAST else trunk.hidden_states[layer] for layer in layers or (LAST,)]
        row_B = torch.arange(len(input_ids), device=hidden_BLD.device)
        features = Features(
            prompt_ND=hidden_BLD[row_B, end_B].float(),
            response_NAD=torch.stack([state_BLD[row_B, last_B].float() for state_BLD in states], dim=1),
            length_N=response_lengths(input_ids, end_B, last_B, self.config.response_header),
            tokens_N=mask.sum(dim=-1),
            truncated_N=torch.zeros_like(last_B, dtype=torch.bool),
            layers=layers,
        )
        with torch.autocast(device_type=hidden_BLD.device.type, enabled=False):
            return self._outputs(features)

    def _outputs(self, features: Features) -> RewardModelOutput:
        mixtures = list(self._reward_model.mixtures.values())
        vectors = {"hidden_state": features.response(), "prompt_embedding": features.prompt_ND}
        if len(mixtures) == 1:
            output: RewardOutput = mixtures[0](features)
            return RewardModelOutput(
                logits=output.reward_N[:, None],
                rewards=output.scores_NK,
                contributions=output.contributions_NK,
                gating_output=output.weights_NK,
                base=output.base_N,
                **vectors,
            )
        task_B = self._reward_model.route(features)
        reward_B = torch.zeros_like(features.prompt_ND[:, 0])
        base_B = torch.zeros_like(reward_B)
        for n, mixture in enumerate(mixtures):
            rows = torch.nonzero(task_B == n).flatten()
            if len(rows):
                routed: RewardOutput = mixture(features.select(rows))
                reward_B, base_B = (
                    reward_B.index_copy(0, rows, routed.reward_N),
                    base_B.index_copy(0, rows, routed.base_N),
                )
        return RewardModelOutput(logits=reward_B[:, None], base=base_B, **vectors)


def _device(device_map: Any, place: str) -> str:
    """Return the device that ``device_map`` names; a model is not split over several."""
    if device_map is None:
        return "cpu"
    if device_map == "auto":
        return "auto"
    if isinstance(device_map, dict) and len(set(map(str, device_map.values()))) == 1:
        device_map = next(iter(device_map.values()))
    if isinstance(device_map, str | int | torch.device):
        return f"cuda:{device_map}" if isinstance(device_map, int) else str(device_map)
    raise ModelError(f"device_map {device_map!r} splits the model", place=place, fix="give one device")


def register() -> None:
    """Register facetrm folders with Transformers' Auto classes. Calling it again has no effect."""
    AutoConfig.register(MODEL_TYPE, FacetrmConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(FacetrmConfig, FacetrmForSequenceClassification, exist_ok=True)
