"""Whole models of Transformers, trunk and head: loaded with checks, trained elsewhere, and saved as plain folders.

    language   a causal language model
    reward     a sequence classifier with one output on the last token; a new head is random

The trunk of such a model is read through :class:`~facetrm.backbone.transformer.TransformerEncoder`, so all token ids
come from the one text path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from facetrm.backbone.checkpoint import (
    device_named,
    find_checkpoint,
    quiet_transformers,
    tensors_fingerprint,
    weights_fingerprint,
)
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.gguf.places import tell_shadowed
from facetrm.backbone.lora.adapters import merge_adapter
from facetrm.backbone.lora.switching import adapter_names
from facetrm.backbone.text.template import chat_template
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError, short
from facetrm.core.fingerprint import fingerprint
from facetrm.core.folders import new_folder

Head = Literal["language", "reward"]
_CLASSES: Final[dict[Head, Any]] = {
    "language": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
}


@dataclass(frozen=True)
class HeadedModel:
    """A trunk with a head, and the encoder that reads conversations for it.

    Attributes:
        model: The whole model.
        encoder: The encoder on its trunk; adapters that are added to the trunk are part of the model.
    """

    model: PreTrainedModel
    encoder: TransformerEncoder

    @property
    def fingerprint(self) -> str:
        """The sha256 of the encoder and the head: weights, tokenizer, template and limits."""
        return fingerprint({"encoder": self.encoder.fingerprint, "head": self._head})

    @property
    def weights(self) -> str:
        """The sha256 of the weights alone, wherever they lie and however much of a conversation is read."""
        trunk = self.encoder.model
        return fingerprint({"trunk": weights_fingerprint(trunk, trunk.state_dict()), "head": self._head})

    @property
    def _head(self) -> str:
        trunk = {id(tensor) for tensor in self.encoder.model.state_dict(keep_vars=True).values()}
        every = self.model.state_dict(keep_vars=True)
        head = {name: tensor for name, tensor in every.items() if id(tensor) not in trunk}
        return tensors_fingerprint(head)


def load_headed(config: BackboneConfig, head: Head, *, seed: int = 0) -> HeadedModel:
    """Load a model with its head.

    Args:
        config: Settings of the model and of how it reads conversations.
        head: Kind of head. A language-model head must be in the checkpoint; a reward head may be new.
        seed: Random seed of a new reward head.

    Raises:
        BackboneError: The checkpoint, tokenizer, template or a setting is missing, invalid or unsupported, the trunk
            is not a decoder, or tensors are missing.
    """
    tell_shadowed(config.path)
    config = config.with_full_paths()
    if config.adapter is not None or config.adapters:
        raise BackboneError("adapters cannot be loaded here", place=config.path, fix="merge them into the model first")
    device = device_named(config.device, place=config.path)
    automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = automatic if config.dtype == "auto" else getattr(torch, config.dtype)
    place, _ = find_checkpoint(config.path, revision=config.revision, trusted=config.trust_remote_code)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code, "revision": config.revision}
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **options)
            more = {"num_labels": 1} if head == "reward" else {}
            model, report = _CLASSES[head].from_pretrained(
                place, dtype=dtype, output_loading_info=True, **more, **options
            )
        except (OSError, ValueError, RuntimeError, KeyError) as exc:
            raise BackboneError(
                f"cannot be loaded with a {head} head ({short(' '.join(str(exc).split()), 300)})",
                place=config.path,
                fix="give the folder of a decoder that Transformers can read",
            ) from None
    new = {"score.weight"} if head == "reward" else set()
    lost = sorted({*report["missing_keys"]} - new)
    if lost:
        raise BackboneError(
            f"the tensor '{lost[0]}' is missing ({len(lost)} in all)",
            place=config.path,
            fix="give a complete decoder, saved with its language-model head",
        )
    encoder = TransformerEncoder(cast(PreTrainedModel, model.to(device).eval()), tokenizer, config=config)
    if encoder.kind != "decoder":
        raise BackboneError("the trunk is not a decoder", place=config.path, fix="give a decoder")
    table: Any = encoder.model.get_input_embeddings()
    rows, ids = int(table.num_embeddings), max(tokenizer.get_vocab().values(), default=-1)
    if ids >= rows:
        raise BackboneError(
            f"the tokenizer produces ids up to {ids}, the model has {rows}",
            place=config.path,
            fix="use the tokenizer that was saved with this model",
        )
    return HeadedModel(model, encoder)


def save_headed(headed: HeadedModel, folder: Path, *, pad: int | None = None) -> BackboneConfig:
    """Merge the trunk's adapter, if there is one, and write the whole model as a folder of Transformers.

    Args:
        headed: Model to write; its adapter is merged in place.
        folder: Destination folder; an existing one is replaced as a whole.
        pad: Id of the padding token that the folder names; None keeps the tokenizer's own.

    Returns:
        Settings that read conversations from the folder as before.

    Raises:
        BackboneError: A merged weight is not finite, or the folder cannot be written.
    """
    model, encoder = headed.model, headed.encoder
    if adapter_names(encoder.model):
        merge_adapter(encoder.model)
    config, tokenizer = encoder.config, encoder.tokenizer
    tokenizer.model_max_length = encoder.max_tokens
    if pad is not None:
        tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(pad))
        model.config.get_text_config().pad_token_id = pad
    with new_folder(folder, BackboneError, replace=True) as temporary:
        with quiet_transformers():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        (temporary / "chat_template.jinja").write_text(chat_template(tokenizer, config), encoding="utf-8")
    dtype = str(encoder.model.dtype).removeprefix("torch.")
    fixed = {"path": str(folder), "kind": "decoder", "template": None, "max_tokens": encoder.max_tokens}
    return config.model_copy(update={**fixed, "dtype": dtype, "revision": None, "trust_remote_code": False})


def free_padding(tokenizer: PreTrainedTokenizerBase, lasts: Iterable[int]) -> int:
    """Return the id of a padding token that ends no row.

    Transformers finds the last token of a row by the padding id, so a row that ends with it would lose its last token.

    Args:
        tokenizer: Tokenizer of the rows.
        lasts: Last token id of each row.

    Raises:
        BackboneError: Every control token ends a row.
    """
    ends = set(lasts)
    controls = sorted(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    for pad in (tokenizer.pad_token_id, *reversed(controls)):
        if pad is not None and pad not in ends:
            return int(pad)
    raise BackboneError(
        "no token is free for padding: every control token ends conversations",
        place=tokenizer.name_or_path,
        fix="add a padding token to the tokenizer and a row to the model's embeddings",
    )
