"""Any Hugging Face decoder or encoder as an :class:`~facetrm.backbone.encoder.Encoder`.

    decoder   prompt = h[prompt_end]                    response = h[last token]          one pass, causal
    encoder   prompt = mean of h over the prompt alone   response = mean of h over the response's tokens of the pair

where h is the last hidden state after the final norm. Shapes: N conversations, L tokens, D hidden size.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, cast, final

import torch
from pydantic import Field, field_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from facetrm.backbone.adapters import ADAPTER_FOLDER, adapter_names, adapter_settings, load_adapter, write_trunk
from facetrm.backbone.chat import PLAIN_TEMPLATE, ChatFormat, DecoderChat, EncoderChat, Limit, Tokenized
from facetrm.backbone.checkpoint import (
    Kind,
    load_checkpoint,
    model_kind,
    new_folder,
    position_limit,
    quiet_transformers,
    token_limit,
    tokenizer_fingerprint,
    weights_fingerprint,
    weights_state,
)
from facetrm.backbone.encoder import Features, Portable
from facetrm.backbone.engine import DecoderEngine, Mode, OnBatch
from facetrm.backbone.pooling import MeanPooling
from facetrm.backbone.portable import write_tokenizer
from facetrm.backbone.truncate import Truncation
from facetrm.core.config import Section
from facetrm.core.errors import BackboneError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.data.records import Conversation

_WINDOW: Final = 16  # characters tokenised at a time, per token of a pass: a few passes
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BackboneConfig(Section):
    """Which backbone, and how it reads.

    Attributes:
        path: a folder, or a name on the Hub.
        adapter: the folder of a LoRA adapter on it, as PEFT writes it.
        kind: ``decoder`` (last-token features), ``encoder`` (mean pooling), or what the architecture says.
        dtype: of the trunk; ``auto`` is float32 on a CPU and bfloat16 on a GPU. Features are float32 always.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` takes a GPU where there is one.
        max_tokens: the most tokens of a conversation; what model and tokenizer say by default.
        truncation: what to do with a longer one: ``error``, or ``drop_oldest`` (see ``backbone.truncate``).
        template: a Jinja file in place of the tokenizer's chat template, or ``plain``: ``role: text`` lines.
        date: what a template that prints today's date gets.
        mode: ``fast`` shares prompts and passes; ``exact`` reads one conversation a pass, so that a score cannot depend
            on what else was asked, not even in its last bit.
        token_budget: tokens of one pass.
        compile: let ``torch.compile`` make the passes of a decoder in ``fast`` mode faster; the first takes minutes.
            Compiled code that fails, or that differs from the model, is given up, and the log says so.
        trust_remote_code: let code that comes with the model run.
        revision: a commit or branch on the Hub.
    """

    path: str
    adapter: str | None = None
    kind: Literal["auto", "decoder", "encoder"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    max_tokens: int | None = Field(default=None, ge=2)
    truncation: Truncation = "error"
    template: str | None = None
    date: str = "26 Jul 2024"
    mode: Mode = "fast"
    token_budget: int = Field(default=8192, ge=1)
    compile: bool = False
    trust_remote_code: bool = False
    revision: str | None = None

    @field_validator("date")
    @classmethod
    def _plain_date(cls, date: str) -> str:
        if not re.fullmatch(r"[\w ,./:-]+", date):
            raise ValueError("write a date in letters, digits and blanks, such as 26 Jul 2024")
        return date


@final
class TransformerEncoder:
    """A Hugging Face trunk that turns conversations into :class:`Features`.

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
        self.kind: Kind = model_kind(model.config, place=place) if config.kind == "auto" else config.kind
        known = token_limit(self.model, tokenizer)
        tokens = config.max_tokens or known
        if tokens is None:
            raise BackboneError(
                "neither model nor tokenizer says how many tokens it reads", place=place, fix="set backbone.max_tokens"
            )
        positions = position_limit(self.model)
        if positions is not None and positions < tokens:
            raise BackboneError(
                f"max_tokens {tokens} is above the {positions} positions of the model",
                place=place,
                fix=f"set backbone.max_tokens to {known} or less",
            )
        self.max_tokens = tokens
        limit = Limit(tokens, config.truncation)
        self._template = chat_template(tokenizer, config) if self.kind == "decoder" else None
        self._chat: ChatFormat
        if self._template is None:
            if config.template is not None:
                raise BackboneError(
                    f"template '{config.template}' is given, but an encoder reads plain text",
                    place=place,
                    fix="take backbone.template out",
                )
            self._chat = EncoderChat(tokenizer, limit=limit)
        else:
            reader = DecoderChat(tokenizer, template=self._template, limit=limit, date=config.date)
            if reader.dated:
                log("the chat template prints the day's date", instead=config.date, setting="backbone.date")
            self._chat = reader
        self._engine = self._made_engine(config)
        self._weights: tuple[str, str] | None = None
        self._tokenizer_hash = tokenizer_fingerprint(tokenizer)

    def _made_engine(self, config: BackboneConfig) -> DecoderEngine | MeanPooling:
        # Where a row is padded is known from the lengths, so any id that the model has will do.
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        inputs = frozenset(inspect.signature(self.model.forward).parameters)
        compiles = config.compile and self.kind == "decoder" and config.mode == "fast"
        if config.compile and not compiles:
            log("compile is off", reason="it makes passes of a decoder in fast mode only")
        mode, budget = config.mode, config.token_budget
        if self.kind == "encoder":
            return MeanPooling(self.model, mode=mode, token_budget=budget, pad=pad, inputs=inputs)
        compiled = torch.compile(self.model, dynamic=True) if compiles else None
        return DecoderEngine(self.model, mode=mode, token_budget=budget, pad=pad, inputs=inputs, compiled=compiled)

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.model.config.get_text_config().hidden_size)

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
        """The sha256 over weights, tokenizer, template and every setting that changes what is read.

        ``mode``, ``token_budget`` and ``compile`` change the last digits only and are left out.
        """
        version = weights_state(self.model)
        if self._weights is None or self._weights[0] != version:
            self._weights = (version, weights_fingerprint(self.model))
        known: dict[str, object] = {
            "weights": self._weights[1],
            "tokenizer": self._tokenizer_hash,
            "template": self.template_hash,
            "kind": self.kind,
            "max_tokens": self.max_tokens,
            "truncation": self.config.truncation,
        }
        adapters = adapter_settings(self.model)
        return fingerprint(known | {"adapters": adapters} if adapters else known)

    def spec(self) -> dict[str, object]:
        """Return the settings that :func:`load_encoder` needs from any folder: ``dtype`` is what the trunk has."""
        fixed = {"dtype": self._dtype}
        for key, place in (("path", self.config.path), ("adapter", self.config.adapter)):
            if place is not None and Path(place).expanduser().is_dir():
                fixed[key] = str(Path(place).expanduser().resolve())
        return self.config.model_copy(update=fixed).model_dump(mode="json")

    @property
    def _dtype(self) -> str:
        names = {dtype: name for name, dtype in _DTYPES.items()}
        return names.get(self.model.dtype, self.config.dtype)

    def tokenize(self, messages: Conversation, *, row: int = 0) -> Tokenized:
        """Return the ids and positions of ``messages``, number ``row``: what is read, in training as well."""
        return self._chat.tokenize(messages, row=row)

    def encode(self, conversations: Sequence[Conversation], *, on_batch: OnBatch | None = None) -> Features:
        """Return the features of N conversations, in order, float32 on the CPU.

        Args:
            conversations: each with a prompt and, last, the assistant message.
            on_batch: called with (rows, tokens) after each batch.

        Raises:
            BackboneError: a conversation that cannot be read or does not fit; it names the row.
        """
        if not conversations:
            return Features.empty(self.hidden_size)
        order: list[int] = []
        parts: list[Features] = []
        with self._evaluating():
            for numbers, rows in self._tokenized(conversations):
                prompt_ND, response_ND = self._engine.read(rows, on_batch or (lambda rows, tokens: None))
                order.extend(numbers)
                parts.append(
                    Features(
                        prompt_ND=prompt_ND,
                        response_NAD=response_ND.unsqueeze(1),
                        length_N=torch.tensor([row.length for row in rows]),
                        tokens_N=torch.tensor([len(row.ids) for row in rows]),
                        truncated_N=torch.tensor([row.truncated for row in rows]),
                    )
                )
        return Features.concat(parts).select(torch.tensor(order).argsort())

    def _tokenized(self, conversations: Sequence[Conversation]) -> Iterator[tuple[list[int], list[Tokenized]]]:
        """Yield row numbers and rows, a few passes' worth at a time; the next ones are tokenised while these are read.

        Answers to one prompt stand together.
        """
        prompts: dict[Conversation, list[int]] = {}
        for n, messages in enumerate(conversations):
            prompts.setdefault(tuple(messages[:-1]), []).append(n)
        windows: list[list[int]] = [[]]
        enough = _WINDOW * self.config.token_budget
        room = enough
        for numbers in prompts.values():
            if room < 0:
                windows.append([])
                room = enough
            windows[-1].extend(numbers)
            room -= sum(len(m.content) for n in numbers for m in conversations[n])

        def tokenized(numbers: list[int]) -> list[Tokenized]:
            return [self._tokenized_row(conversations[n], n) for n in numbers]

        if len(windows) == 1:
            yield windows[0], tokenized(windows[0])
            return
        with ThreadPoolExecutor(max_workers=1) as beside:
            ahead = beside.submit(tokenized, windows[0])
            for numbers, later in zip(windows, [*windows[1:], []], strict=True):
                rows = ahead.result()
                ahead = beside.submit(tokenized, later)
                yield numbers, rows

    def _tokenized_row(self, messages: Conversation, n: int) -> Tokenized:
        try:
            return self.tokenize(messages, row=n)
        except BackboneError as exc:
            exc.row = n
            raise

    def save_tokenizer(self, folder: Path) -> Portable:
        """Write the tokenizer to ``folder``: see :func:`~facetrm.backbone.portable.write_tokenizer`.

        Raises:
            BackboneError: others would read other ids, or it is an encoder, whose pairs other programs do not make.
        """
        if not isinstance(self._chat, DecoderChat):
            problem = "an encoder reads prompt and response as a pair, which other programs do not make"
            raise BackboneError(problem, place=self.config.path, fix="use facetrm.load_model")
        return write_tokenizer(self.tokenizer, self._chat, folder)

    def save_backbone(self, folder: Path) -> BackboneConfig:
        """Write trunk, tokenizer and chat template to ``folder``, whole or not at all; an adapter goes below it.

        Returns:
            The settings that load it again, with the same fingerprint.

        Raises:
            BackboneError: the folder holds something already, or the trunk holds several adapters.
        """
        with new_folder(folder) as temporary:
            write_trunk(self.model, temporary)
            with quiet_transformers():
                self.tokenizer.save_pretrained(temporary)
            if self._template is not None:
                (temporary / "chat_template.jinja").write_text(self._template, encoding="utf-8")
        fixed = {"path": str(folder), "kind": self.kind, "max_tokens": self.max_tokens, "template": None}
        fixed |= {"dtype": self._dtype, "adapter": str(folder / ADAPTER_FOLDER) if adapter_names(self.model) else None}
        return self.config.model_copy(update={**fixed, "revision": None, "trust_remote_code": False})

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.train(False)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)


def chat_template(tokenizer: PreTrainedTokenizerBase, config: BackboneConfig) -> str:
    """Return the chat template's text: the file that ``config`` gives, ``plain`` by name, else the tokenizer's own.

    Raises:
        BackboneError: there is none.
    """
    if config.template == "plain":
        return PLAIN_TEMPLATE
    if config.template is not None:
        try:
            return Path(config.template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise BackboneError(
                "no such template", place=config.template, fix="give a Jinja file, or the name plain"
            ) from None
    own = tokenizer.chat_template
    text = own.get("default") if isinstance(own, dict) else own
    if not text:
        raise BackboneError(
            "the tokenizer has no chat template",
            place=config.path,
            fix="set backbone.template to a Jinja file, or to plain for 'role: text' lines",
        )
    return str(text)


def load_encoder(config: BackboneConfig) -> TransformerEncoder:
    """Return the backbone that ``config`` names, checked and ready.

    Raises:
        BackboneError: see :func:`~facetrm.backbone.checkpoint.load_checkpoint` and :class:`TransformerEncoder`.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0]
        raise BackboneError(
            f"device '{name}' is not there ({reason})", place=config.path, fix="set backbone.device: auto"
        ) from None
    auto = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, tokenizer = load_checkpoint(
        config.path,
        dtype=_DTYPES.get(config.dtype, auto),
        device=device,
        trust_remote_code=config.trust_remote_code,
        revision=config.revision,
    )
    if config.adapter is not None:
        load_adapter(cast(PreTrainedModel, model.base_model), config.adapter)
    return TransformerEncoder(model, tokenizer, config=config)
