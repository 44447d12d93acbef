"""Any Hugging Face decoder or encoder as an :class:`~facetrm.backbone.encoder.Encoder`.

    decoder   prompt = h[prompt_end]                    response = h[last token]          one pass, causal
    encoder   prompt = mean of h over the prompt alone   response = mean of h over the response's tokens of the pair

where h is the last hidden state after the final norm. Shapes: N conversations, L tokens, D hidden size.
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
from facetrm.backbone.encoder import Features, Portable, tell_unknown
from facetrm.backbone.exclusive import evaluating, trunk_lock
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
from facetrm.backbone.passes.ahead import tokenized_ahead
from facetrm.backbone.passes.engine import OnBatch
from facetrm.backbone.text.chat import ChatFormat, DecoderChat, Tokenized
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

    Threads may share it: whoever reads, or adds or removes an adapter, holds the trunk's lock until the call is done,
    and encoders on one trunk hold the same lock. ``on_batch`` must not wait for another thread that reads.

    Args:
        model: the trunk (no head), or a model whose ``base_model`` it is.
        tokenizer: its tokenizer.
        config: how it reads; ``path``, ``dtype``, ``device`` and ``revision`` were used to load it.

    Raises:
        BackboneError: no chat template, no known limit of tokens, or a setting that the backbone cannot follow.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, config: BackboneConfig) -> None:
        self.model = cast(PreTrainedModel, model.base_model)
        self.tokenizer, self.config = tokenizer, config
        place = config.path
        self.kind: TrunkKind = model_kind(model.config, place=place) if config.kind == "auto" else config.kind
        self.max_tokens = most_tokens(self.model, tokenizer, config)
        self._template = chat_template(tokenizer, config) if self.kind == "decoder" else None
        self._chat: ChatFormat = made_chat(tokenizer, config, template=self._template, tokens=self.max_tokens)
        self._engine = made_engine(self.model, config, kind=self.kind, pad=self.pad)
        self._weights: tuple[str, str] | None = None
        self._tokenizer_hash = tokenizer_fingerprint(tokenizer)
        self._unshortened: dict[str, str | int] = {}

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def pad(self) -> int:
        """The id that fills rows of a batch: any will do where the lengths are known."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @property
    def block_characters(self) -> int:
        """How many characters a store reads at a time: on a processor seconds of work, on a GPU many passes."""
        return 2**15 if self.model.device.type == "cpu" else 2**20

    @property
    def mode(self) -> Mode:
        """``fast`` or ``exact``."""
        return self.config.mode

    @property
    def template_hash(self) -> str:
        """The name of the rendering."""
        return self._chat.template_hash

    @property
    def fingerprint(self) -> str:
        """The sha256 over weights, tokenizer, template, named adapters and every setting that changes what is read.

        ``mode``, ``token_budget`` and ``compile`` change the last digits only and are left out.
        """
        with trunk_lock(self.model):
            named = {name: self.adapter_fingerprint(name) for name in self.adapters}
            trunk = self.trunk_fingerprint
        return fingerprint({"trunk": trunk, "adapters": named}) if named else trunk

    @property
    def trunk_fingerprint(self) -> str:
        """The fingerprint without named adapters: equal ones give equal features of the bare trunk."""
        with trunk_lock(self.model):
            return self._trunk_fingerprint()

    def _trunk_fingerprint(self) -> str:
        tensors = trunk_tensors(self.model)
        version = weights_state(tensors)
        if self._weights is None or self._weights[0] != version:
            self._weights = (version, weights_fingerprint(self.model, tensors))
        known: dict[str, object] = {
            "weights": self._weights[1],
            "tokenizer": self._tokenizer_hash,
            "template": self.template_hash,
            "kind": self.kind,
            "max_tokens": self.max_tokens,
            "truncation": self.config.truncation,
        }
        own = adapter_settings(self.model, [TRUNK_ADAPTER]) if TRUNK_ADAPTER in adapter_names(self.model) else {}
        return fingerprint(known | {"adapters": own} if own else known)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters beside the trunk's own, sorted."""
        return named_adapters(self.model)

    def adapter_fingerprint(self, name: str) -> str:
        """Return the sha256 over the tensors of the adapter ``name`` and what it computes with.

        Raises:
            BackboneError: no such adapter.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, [name])
            known = {"tensors": tensors_fingerprint(adapter_tensors(self.model, name=name))}
            return fingerprint(known | {"settings": adapter_settings(self.model, [name])[name]})

    def add_adapter(self, name: str, source: LoraSettings | str | Path, *, seed: int = 0) -> None:
        """Put an adapter into the trunk: a new one, which changes nothing until it is trained, or one from a folder.

        Args:
            name: of it.
            source: the size and place of a new one, or a folder as PEFT writes it.
            seed: of a new one's tensors.

        Raises:
            BackboneError: the name is taken or will not do, or the adapter does not fit the trunk.
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
        """Take the adapter ``name`` out of the trunk.

        Raises:
            BackboneError: no such adapter.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, [name])
            remove_adapter(self.model, name=name)
            self._keep_places({other: place for other, place in self.config.adapters.items() if other != name})

    def save_adapter(self, name: str, folder: Path, *, replace: bool = False) -> None:
        """Write the adapter ``name`` to a new ``folder`` in PEFT's format: :meth:`spec` names it from then on.

        Args:
            name: the adapter to write.
            folder: the folder to write to.
            replace: whether to replace, in one step, what the folder holds.

        Raises:
            BackboneError: no such adapter, or the folder holds something already.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, [name])
            save_adapter(self.model, folder, name=name, replace=replace)
            self._keep_places({**self.config.adapters, name: str(folder)})

    def _keep_places(self, adapters: dict[str, str]) -> None:
        self.config = self.config.model_copy(update={"adapters": adapters})

    def spec(self) -> dict[str, object]:
        """Return the settings that :func:`load_encoder` needs from any folder: ``dtype`` is what the trunk has."""
        return self.config.with_full_paths().model_copy(update={"dtype": self._dtype}).model_dump(mode="json")

    @property
    def _dtype(self) -> str:
        return {dtype: name for name, dtype in _DTYPES.items()}.get(self.model.dtype, self.config.dtype)

    def shortened(self, *, truncation: Truncation | None = None, max_tokens: int | None = None) -> TransformerEncoder:
        """Return an encoder on the same trunk (and its lock) that reads less of long conversations.

        What fits either limit is read alike, bit for bit in ``exact`` mode. The fingerprint is another one where a
        setting differs, and :attr:`shortening` says what differs.

        Args:
            truncation: what to do with a conversation that is too long; None keeps the setting.
            max_tokens: the most tokens of a conversation, at most this encoder's; None keeps the setting.

        Raises:
            BackboneError: ``max_tokens`` is above this encoder's.
        """
        if max_tokens is not None and not 2 <= max_tokens <= self.max_tokens:
            raise BackboneError(
                f"max_tokens is {max_tokens}, and this model was made to read up to {self.max_tokens}",
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
        """The settings that :meth:`shortened` changed, as they are now; none for an encoder as it was made."""
        now: dict[str, str | int] = {"truncation": self.config.truncation, "max_tokens": self.max_tokens}
        return {key: now[key] for key in self._unshortened}

    def tokenize(self, messages: Conversation, *, row: int = 0) -> Tokenized:
        """Return the ids and positions of ``messages``, number ``row``: what is read, in training as well."""
        return self._chat.tokenize(messages, row=row)

    def unrendered_turns(self) -> list[UnrenderedTurn]:
        """Return what the chat template leaves out of probing conversations; none for an encoder, which has none."""
        return unrendered_turns(self._chat.render) if isinstance(self._chat, DecoderChat) else []

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        adapters: Sequence[str] | None = None,
        on_batch: OnBatch | None = None,
    ) -> Features:
        """Return the features of N conversations, in order, float32 on the CPU.

        Args:
            conversations: each with a prompt and, last, the assistant message.
            adapters: A names: responses are read by each of these, prompts by the bare trunk. None: both by the trunk.
            on_batch: called with (rows, tokens) after each batch.

        Raises:
            BackboneError: an unknown adapter, or a conversation that cannot be read or does not fit; it names the row.
        """
        told: OnBatch = on_batch or (lambda rows, tokens: None)
        order: list[int] = []
        parts: list[Features] = []
        with evaluating(self.model):
            if adapters is not None:
                known_adapters(self.model, adapters)
            if not conversations:
                return Features.empty(self.hidden_size, 1 if adapters is None else len(adapters))
            for numbers, rows in self._tokenized(conversations):
                if adapters is None:
                    prompt_ND, response_ND = self._engine.read(rows, told)
                    response_NAD = response_ND.unsqueeze(1)
                else:
                    prompt_ND, response_NAD = self._engine.read_adapted(rows, told, adapters=adapters)
                order.extend(numbers)
                parts.append(
                    Features(
                        prompt_ND=prompt_ND,
                        response_NAD=response_NAD,
                        length_N=torch.tensor([row.length for row in rows]),
                        tokens_N=torch.tensor([len(row.ids) for row in rows]),
                        truncated_N=torch.tensor([row.truncated for row in rows]),
                        unknown_N=torch.tensor([row.unknown for row in rows], dtype=torch.float32),
                    )
                )
        features = Features.concat(parts).select(torch.tensor(order).argsort())
        tell_unknown(features)
        return features

    def prompts(self, conversations: Sequence[Conversation]) -> Tensor:
        """Return the prompt vectors [N, D] of N conversations, in order, by the bare trunk.

        Each prompt is read once; an answer only counts where the conversation is too long and has to be truncated.

        Args:
            conversations: as for :meth:`encode`.

        Raises:
            BackboneError: a conversation that cannot be read or does not fit; it names the row.
        """
        if not conversations:
            return torch.zeros(0, self.hidden_size, dtype=torch.float32)
        order: list[int] = []
        parts: list[Tensor] = []
        with evaluating(self.model):
            for numbers, rows in self._tokenized(conversations):
                order.extend(numbers)
                parts.append(self._engine.read_prompts(rows))
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _tokenized(self, conversations: Sequence[Conversation]) -> Iterator[tuple[list[int], list[Tokenized]]]:
        return tokenized_ahead(
            conversations, lambda messages, n: self.tokenize(messages, row=n), token_budget=self.config.token_budget
        )

    def save_tokenizer(self, folder: Path) -> Portable:
        """Write the tokenizer to ``folder``: see :func:`~facetrm.backbone.text.portable.write_tokenizer`.

        Raises:
            BackboneError: others would read other ids, or it is an encoder, whose pairs other programs do not make.
        """
        if not isinstance(self._chat, DecoderChat):
            problem = "an encoder reads prompt and response as a pair, which other programs do not make"
            raise BackboneError(problem, place=self.config.path, fix="use facetrm.load_model")
        return write_tokenizer(self.tokenizer, self._chat, folder)

    def save_backbone(self, folder: Path, *, replace: bool = False) -> BackboneConfig:
        """Write trunk, tokenizer and chat template to ``folder``, whole or not at all; adapters go below it.

        Args:
            folder: the folder to write to.
            replace: whether to replace, in one step, what the folder holds.

        Returns:
            The settings that load it again, with the same fingerprint.

        Raises:
            BackboneError: the folder holds something already.
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
    """Return the backbone that ``config`` names, checked and ready.

    Raises:
        BackboneError: see :func:`~facetrm.backbone.checkpoint.load_checkpoint` and :class:`TransformerEncoder`.

    Example:
        >>> from facetrm import BackboneConfig, load_encoder, toy_model
        >>> toy_model().save("toy", backbone="copy")
        >>> load_encoder(BackboneConfig(path="toy/backbone", device="cpu")).hidden_size
        32
    """
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
