"""A causal language model that answers conversations. Its answers can be measured at the desk, or scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from facetrm.backbone.checkpoint import device_named, find_checkpoint, quiet_transformers
from facetrm.core.errors import BackboneError, short
from facetrm.data.records import Message


@final
class LanguageModel:
    """A decoder with its language-model head, which writes answers through its own chat template.

    Args:
        path: a model folder, a GGUF file, a known name such as ``smollm2-135m``, or ``hf://owner/name`` on the Hub.
        device: the device: ``cpu``, ``cuda``, or ``auto``.
        dtype: the data type of the weights.
        max_new_tokens: the most tokens of an answer; a longer one is cut off.
        temperature: the sampling temperature; 0 always takes the likeliest token.
        seed: the random seed. An answer depends on the seed and on its conversation, not on earlier answers.

    Raises:
        BackboneError: the model cannot be loaded, lacks tensors, or has no chat template.
    """

    def __init__(
        self,
        path: str,
        *,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if max_new_tokens < 1 or not 0.0 <= temperature < float("inf"):
            raise BackboneError(
                f"max_new_tokens is {max_new_tokens} and temperature {temperature}",
                place=path,
                fix="give at least 1 token, and a temperature of 0 or more",
            )
        self._most, self._temperature, self._seed = max_new_tokens, temperature, seed
        self._device = device_named(device, place="device")
        place, _ = find_checkpoint(path, revision=None, trusted=False)
        with quiet_transformers():
            try:
                self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
                load: Any = AutoModelForCausalLM.from_pretrained
                model, report = load(place, dtype=dtype, output_loading_info=True, trust_remote_code=False)
            except (OSError, ValueError) as exc:
                raise BackboneError(
                    f"not a causal language model ({short(' '.join(str(exc).split()), 200)})",
                    place=path,
                    fix="give the folder of a decoder with its language-model head",
                ) from None
        if report["missing_keys"]:
            raise BackboneError(
                f"the tensor '{sorted(report['missing_keys'])[0]}' is missing, so answers would be random",
                place=path,
                fix="save the model with its language-model head",
            )
        if not self._tokenizer.chat_template:
            raise BackboneError("the tokenizer has no chat template", place=path, fix="use an instruct model")
        self._model = cast(PreTrainedModel, model.to(self._device).eval())

    def answer(self, messages: Sequence[Message]) -> str:
        """Return the model's answer to a conversation.

        Args:
            messages: the conversation; its last message is the user's.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        read: Any = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        options: dict[str, Any] = {"do_sample": self._temperature > 0.0}
        if self._temperature > 0.0:
            options |= {"temperature": self._temperature, "top_k": 0, "top_p": 1.0}
        padding = self._tokenizer.pad_token_id
        padding = self._tokenizer.eos_token_id if padding is None else padding
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices), torch.inference_mode(), quiet_transformers():
            torch.manual_seed(self._seed)
            written = self._model.generate(  # type: ignore[operator]
                **read.to(self._device), max_new_tokens=self._most, pad_token_id=padding, **options
            )
        new = written[0, read["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(new, skip_special_tokens=True)).strip()
