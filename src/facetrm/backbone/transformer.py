"""Wraps any Hugging Face decoder or encoder as an :class:`~facetrm.backbone.encoder.Encoder`.

    decoder   prompt = h[prompt_end]                     response = h[last token]   (one causal pass)
    encoder   prompt = mean of h over the prompt alone   response = mean of h over the response tokens of the pair

where h is the last hidden state after the final norm; a response can also be read at inner layers. Shapes: N
conversations, L tokens, D hidden size, A readings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from facetrm.backbone.checkpoint import (
    TrunkKind,
    device_named,
    load_checkpoint,
    model_kind,
    quiet_transformers,
    tensors_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
    weights_state,
)
from facetrm.backbone.config import BackboneConfig, Mode
from facetrm.backbone.encoder import LAST, Features, Layer, Portable, known_layers, labels, tell_unknown
from facetrm.backbone.exclusive import evaluating, trunk_lock
from facetrm.backbone.gguf.origin import origin_warnings
from facetrm.backbone.gguf.places import tell_shadowed
from facetrm.backbone.lora.adapters import (
    ADAPTER_FOLDER,
    NAMED_FOLDER,
    LoraSettings,
    adapter_settings,
    adapter_tensors,
    add_adapter,
    load_adapter,
    remove_adapter,
    save_adapter,
    trunk_tensors,
    write_trunk,
)
from facetrm.backbone.lora.names import TRUNK_ADAPTER, name_problem
from facetrm.backbone.lora.switching import adapter_names, known_adapters, named_adapters
from facetrm.backbone.passes.ahead import features_of, tokenized_ahead
from facetrm.backbone.passes.engine import OnBatch
from facetrm.backbone.text.chat import ChatFormat, DecoderChat, Tokenized
from facetrm.backbone.text.counted import CountedTokens
from facetrm.backbone.text.portable import write_tokenizer
from facetrm.backbone.text.rendered import UnrenderedTurn, unrendered_turns
from facetrm.backbone.text.template import chat_template
from facetrm.backbone.text.truncate import Truncation
from facetrm.backbone.wiring import made_chat, made_engine, most_tokens
from facetrm.core.errors import BackboneError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.folders import new_folder
from facetrm.data.records import Conversation

__all__ = ["BackboneConfig", "TransformerEncoder", "chat_template", "load_encoder"]
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@final
class TransformerEncoder:
    """A Hugging Face trunk that turns conversations into :class:`Features`.

    Threads may share it. Each call that encodes, or adds or removes an adapter, holds the trunk's lock until it
    returns, and all encoders on a trunk share its lock. ``on_batch`` must not wait for another thread that encodes.

    Args:
        model: trunk without a head, or a model whose ``base_model`` is the trunk.
        tokenizer: tokenizer of the model.
        config: settings; ``path``, ``dtype``, ``device`` and ``revision`` must be those that the model was loaded with.

    Raises:
        BackboneError: There is no chat template or token limit, or the backbone does not support a setting.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, config: BackboneConfig) -> None:
        self.model = cast(PreTrainedModel, model.base_model)
        self.tokenizer, self.config = tokenizer, config
        self.kind: TrunkKind = model_kind(model.config, place=config.path) if config.kind == "auto" else config.kind
        self.max_tokens = most_tokens(self.model, tokenizer, config)
        self._template = chat_template(tokenizer, config) if self.kind == "decoder" else None
        self.chat: ChatFormat = made_chat(tokenizer, config, template=self._template, tokens=self.max_tokens)
        self._tokens = CountedTokens(self.chat)
        self._engine = made_engine(self.model, config, kind=self.kind, pad=self.pad)
        self._weights: tuple[str, str] | None = None
        self._tokenizer_hash = tokenizer_fingerprint(tokenizer)
        self._unshortened: dict[str, str | int] = {}

    @property
    def hidden_size(self) -> int:
        """The width D of the hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def pad(self) -> int:
        """The padding token id; any id works, because padding is masked by length."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @property
    def block_characters(self) -> int:
        """The block size of a feature store in characters: a few seconds on a CPU, many forward passes on a GPU."""
        return 2**15 if self.model.device.type == "cpu" else 2**20

    @property
    def mode(self) -> Mode:
        """The reading mode, ``fast`` or ``exact``."""
        return self.config.mode

    @property
    def template_hash(self) -> str:
        """The hash that identifies how conversations are rendered to text."""
        return self.chat.template_hash

    @property
    def fingerprint(self) -> str:
        """The sha256 of the weights, tokenizer, template, named adapters and every setting that affects the tokens.

        ``mode``, ``token_budget`` and ``compile`` are excluded, because they change only rounding errors.
        """
        with trunk_lock(self.model):
            named = {name: self.adapter_fingerprint(name) for name in self.adapters}
            trunk = self.trunk_fingerprint
        return fingerprint({"trunk": trunk, "adapters": named}) if named else trunk

    @property
    def trunk_fingerprint(self) -> str:
        """The fingerprint without named adapters; equal fingerprints mean equal features of the bare trunk."""
        with trunk_lock(self.model):
            tensors = trunk_tensors(self.model)
            version = weights_state(tensors)
            if self._weights is None or self._weights[0] != version:
                self._weights = (version, weights_fingerprint(self.model, tensors))
            weights = self._weights[1]
            known = dict[str, object](weights=weights, tokenizer=self._tokenizer_hash, template=self.template_hash)
            known |= {"kind": self.kind, "max_tokens": self.max_tokens, "truncation": self.config.truncation}
            own = adapter_settings(self.model, [TRUNK_ADAPTER]) if TRUNK_ADAPTER in adapter_names(self.model) else {}
            return fingerprint(known | {"adapters": own} if own else known)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about weights or tokenizer that were converted from another format, one sentence each."""
        return origin_warnings(self.model.config.to_dict())

    @property
    def adapters(self) -> tuple[str, ...]:
        """The sorted names of the adapters, without the trunk's own."""
        return named_adapters(self.model)

    def adapter_fingerprint(self, name: str) -> str:
        """Return the sha256 of the tensors and settings of the adapter ``name``.

        Raises:
            BackboneError: There is no such adapter.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, [name])
            known = {"tensors": tensors_fingerprint(adapter_tensors(self.model, name=name))}
            return fingerprint(known | {"settings": adapter_settings(self.model, [name])[name]})

    def add_adapter(self, name: str, source: LoraSettings | str | Path, *, seed: int = 0) -> None:
        """Add an adapter to the trunk: a new one, which has no effect until it is trained, or one from a folder.

        Args:
            name: name of the adapter.
            source: settings of a new adapter, or a folder in PEFT's format.
            seed: random seed for the tensors of a new adapter.

        Raises:
            BackboneError: The name is taken or invalid, or the adapter does not fit the trunk.
        """
        if (problem := name_problem(name)) is not None:
            raise BackboneError(f"an adapter cannot be named '{name}': {problem}", fix="give another name")
        with trunk_lock(self.model):
            if isinstance(source, LoraSettings):
                add_adapter(self.model, source, seed=seed, name=name)
            else:
                load_adapter(self.model, source, name=name)
                self._keep_places({**self.config.adapters, name: str(source)})

    def remove_adapter(self, name: str) -> None:
        """Remove the adapter ``name`` from the trunk.

        Raises:
            BackboneError: There is no such adapter.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, [name])
            remove_adapter(self.model, name=name)
            self._keep_places({other: place for other, place in self.config.adapters.items() if other != name})

    def save_adapter(self, name: str, folder: Path, *, replace: bool = False) -> None:
        """Write the adapter ``name`` to ``folder`` in PEFT's format; :meth:`spec` then refers to that folder.

        Args:
            name: name of the adapter.
            folder: destination folder.
            replace: whether to atomically replace the contents of an existing folder.

        Raises:
            BackboneError: There is no such adapter, or the folder is not empty and ``replace`` is false.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, [name])
            save_adapter(self.model, folder, name=name, replace=replace)
            self._keep_places({**self.config.adapters, name: str(folder)})

    def _keep_places(self, adapters: dict[str, str]) -> None:
        self.config = self.config.model_copy(update={"adapters": adapters})

    def spec(self) -> dict[str, object]:
        """Return settings for :func:`load_encoder`, with absolute paths and the trunk's actual ``dtype``."""
        return self.config.with_full_paths().model_copy(update={"dtype": self._dtype}).model_dump(mode="json")

    @property
    def _dtype(self) -> str:
        return {dtype: name for name, dtype in _DTYPES.items()}.get(self.model.dtype, self.config.dtype)

    def shortened(self, *, truncation: Truncation | None = None, max_tokens: int | None = None) -> TransformerEncoder:
        """Return an encoder on the same trunk (with the same lock) that reads less of long conversations.

        Both encoders read conversations within both limits identically, bit for bit in ``exact`` mode. If a setting
        differs, so does the fingerprint, and :attr:`shortening` lists the differences.

        Args:
            truncation: policy for conversations that are too long; None keeps the current one.
            max_tokens: maximum tokens per conversation, at most this encoder's limit; None keeps the current limit.

        Raises:
            BackboneError: ``max_tokens`` is below 2 or above this encoder's limit.
        """
        if max_tokens is not None and not 2 <= max_tokens <= self.max_tokens:
            raise BackboneError(
                f"max_tokens is {max_tokens}, but this model reads at most {self.max_tokens}",
                place=self.config.path,
                fix=f"give 2 to {self.max_tokens}",
            )
        changed = {"truncation": truncation or self.config.truncation, "max_tokens": max_tokens or self.max_tokens}
        made = TransformerEncoder(self.model, self.tokenizer, config=self.config.model_copy(update=changed))
        before = {"truncation": self.config.truncation, "max_tokens": self.max_tokens} | self._unshortened
        made._unshortened = {key: value for key, value in before.items() if value != changed[key]}
        return made

    @property
    def shortening(self) -> dict[str, str | int]:
        """The settings that :meth:`shortened` changed, with their new values; empty for the original encoder."""
        now: dict[str, str | int] = {"truncation": self.config.truncation, "max_tokens": self.max_tokens}
        return {key: now[key] for key in self._unshortened}

    def tokenize(self, messages: Conversation, *, row: int = 0) -> Tokenized:
        """Return the token ids and positions of ``messages``; ``row`` is its index, for error messages."""
        return self._tokens.count(messages, row)

    def unrendered_turns(self) -> list[UnrenderedTurn]:
        """Return what the chat template omits from probe conversations; empty for an encoder (no template)."""
        return unrendered_turns(self.chat.render) if isinstance(self.chat, DecoderChat) else []

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        adapters: Sequence[str] | None = None,
        layers: Sequence[Layer] | None = None,
        on_batch: OnBatch | None = None,
    ) -> Features:
        """Return the features of N conversations, in order, as float32 on the CPU.

        Args:
            conversations: conversations that have a prompt and end with an assistant message.
            adapters: names of A adapters that each encode the responses (the bare trunk encodes the prompts), or None.
            layers: A layers of the bare trunk at which the responses are read in one pass, or None for the last.
            on_batch: function called with (rows, tokens) after each batch.

        Raises:
            BackboneError: An adapter or layer is unknown, adapters and layers are given, or a conversation is invalid
                or too long (the error gives its index).
        """
        told: OnBatch = on_batch or (lambda rows, tokens: None)
        asked = () if layers is None else labels(self.known_layers(layers))
        if asked and adapters is not None:
            raise BackboneError("adapters and layers are given", fix="give one of them")
        order, parts = list[int](), list[Features]()
        with evaluating(self.model):
            if adapters is not None:
                known_adapters(self.model, adapters)
            if not conversations:
                return Features.empty(self.hidden_size, len(adapters or [""]), layers=asked)
            for numbers, rows in self._tokenized(conversations):
                if adapters is not None:
                    prompt_ND, response_NAD = self._engine.read_adapted(rows, told, adapters=adapters)
                else:
                    prompt_ND, response_NAD = self._engine.read_layers(rows, told, layers=asked or (LAST,))
                order.extend(numbers)
                parts.append(features_of(rows, prompt_ND, response_NAD, layers=asked))
        return tell_unknown(Features.concat(parts).select(torch.tensor(order).argsort()))

    def known_layers(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Return the different ``layers`` in order; the number of the last one is ``last``.

        Raises:
            BackboneError: The trunk has no such layer.
        """
        text = self.model.config.get_text_config()
        return known_layers(layers, count=text.num_hidden_layers, place=self.config.path)

    def prompts(self, conversations: Sequence[Conversation]) -> Tensor:
        """Return the prompt vectors [N, D] of N conversations, in order, from the bare trunk.

        Each prompt is encoded once. A response matters only if its conversation is so long that it is truncated.

        Args:
            conversations: conversations that have a prompt and end with an assistant message.

        Raises:
            BackboneError: A conversation is invalid or too long (the error gives its index).
        """
        if not conversations:
            return torch.zeros(0, self.hidden_size, dtype=torch.float32)
        order, parts = list[int](), list[Tensor]()
        with evaluating(self.model):
            for numbers, rows in self._tokenized(conversations):
                order.extend(numbers)
                parts.append(self._engine.read_prompts(rows))
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _tokenized(self, conversations: Sequence[Conversation]) -> Iterator[tuple[list[int], list[Tokenized]]]:
        return tokenized_ahead(conversations, self._tokens.read, token_budget=self.config.token_budget)

    def save_tokenizer(self, folder: Path) -> Portable:
        """Write the tokenizer to ``folder``, as :func:`~facetrm.backbone.text.portable.write_tokenizer` does.

        Raises:
            BackboneError: Other programs would read different token ids, or the backbone is an encoder.
        """
        if not isinstance(self.chat, DecoderChat):
            problem = "an encoder reads prompt and response as a pair, which other programs do not build"
            raise BackboneError(problem, place=self.config.path, fix="use facetrm.load_model")
        return write_tokenizer(self.tokenizer, self.chat, folder)

    def save_backbone(self, folder: Path, *, replace: bool = False) -> BackboneConfig:
        """Atomically write the trunk, tokenizer and chat template to ``folder``, and adapters to its subfolders.

        Args:
            folder: destination folder.
            replace: whether to atomically replace the contents of an existing folder.

        Returns:
            Settings that load the backbone again, with the same fingerprint.

        Raises:
            BackboneError: The folder is not empty and ``replace`` is false.
        """
        with new_folder(folder, BackboneError, replace=replace) as temporary:
            write_trunk(self.model, temporary)
            with quiet_transformers():
                self.tokenizer.save_pretrained(temporary)
            if self._template is not None:
                (temporary / "chat_template.jinja").write_text(self._template, encoding="utf-8")
        fixed = {"path": str(folder), "kind": self.kind, "max_tokens": self.max_tokens, "template": None}
        own = TRUNK_ADAPTER in adapter_names(self.model)
        fixed |= {"dtype": self._dtype, "adapter": str(folder / ADAPTER_FOLDER) if own else None}
        fixed |= {"adapters": {name: str(folder / NAMED_FOLDER / name) for name in self.adapters}}
        return self.config.model_copy(update={**fixed, "revision": None, "trust_remote_code": False})


def load_encoder(config: BackboneConfig) -> TransformerEncoder:
    """Load and check a backbone.

    Args:
        config: settings: the path of the checkpoint, its dtype and device, adapters, and how conversations are read.

    Raises:
        BackboneError: The checkpoint, tokenizer, template, an adapter or a setting is missing, invalid or unsupported.

    Example:
        >>> from facetrm import BackboneConfig, load_encoder, toy_model
        >>> toy_model().save("toy", backbone="copy")
        >>> load_encoder(BackboneConfig(path="toy/backbone", device="cpu")).hidden_size
        32
    """
    tell_shadowed(config.path)
    config = config.with_full_paths()
    device = device_named(config.device, place=config.path)
    dtype = _DTYPES.get(config.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)
    model, tokenizer = load_checkpoint(
        config.path, dtype=dtype, device=device, trust_remote_code=config.trust_remote_code, revision=config.revision
    )
    own = {} if config.adapter is None else {TRUNK_ADAPTER: config.adapter}
    for name, folder in (own | config.adapters).items():
        load_adapter(cast(PreTrainedModel, model.base_model), folder, name=name)
    return TransformerEncoder(model, tokenizer, config=config)
