"""The served model: conversations in, scores out, whatever the format of the request.

tokenise (one thread)  ->  queue  ->  read in batches (one thread that owns the model)  ->  scores in order
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, final, runtime_checkable

from facetrm.backbone.text.chat import DecoderChat
from facetrm.backbone.text.parsed import TextParser
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError, FacetrmError
from facetrm.core.progress import log
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.serve.batching import Batcher, BatchRead
from facetrm.serve.limits import ServeConfig
from facetrm.serve.refusals import RefusalError, error_place
from facetrm.serve.variants import AskedEdit, Variants, score_by_each

T = TypeVar("T")


@runtime_checkable
class _Tokenizes(Protocol):
    def tokenize(self, messages: Conversation) -> Any: ...


@final
class RewardService:
    """A reward model that many requests share.

    Args:
        model: the model.
        name: name under which it is served.
        config: limits of the service.
        on_batch: called with each batch after it was read.
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        name: str,
        config: ServeConfig,
        on_batch: Callable[[BatchRead], None] = lambda batch: None,
    ) -> None:
        self.model, self.name, self.config, self.created = model, name, config, int(time.time())
        self.variants = Variants(model)
        self.hash = model.hash
        self.parser = text_parser(model)
        self.batcher: Batcher[tuple[Conversation, Sequence[RewardModel]], list[Score]] = Batcher(
            score_by_each,
            token_budget=config.batch_tokens,
            max_wait=config.max_wait_ms / 1000.0,
            most=config.max_queue,
            on_batch=on_batch,
        )
        self.beside = ThreadPoolExecutor(1, thread_name_prefix="facetrm-tokenize")

    @property
    def dtype(self) -> str:
        """The data type of the backbone's weights."""
        trunk = getattr(self.model.encoder, "model", None)
        return str(getattr(trunk, "dtype", "float32")).removeprefix("torch.")

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of a conversation; None if the encoder sets no limit."""
        return getattr(self.model.encoder, "max_tokens", None)

    async def variant(self, weights: dict[str, float], mask: Sequence[str]) -> tuple[AskedEdit, RewardModel]:
        """Return the edit that a request asks for, and the model with it.

        Args:
            weights: factors of the objectives' weights, by name.
            mask: names of the objectives to drop.

        Raises:
            RefusalError: an objective is unknown, or the edit is not possible in this model.
        """
        asked, neutral = AskedEdit.of(weights, mask), [name for name, factor in weights.items() if factor == 1.0]
        if not asked and not neutral:
            return asked, self.model

        def made() -> RewardModel:
            variant = self.variants.of(asked, neutral=neutral)
            _ = variant.hash  # computed here, because it takes longer than an event loop should wait
            return variant

        try:
            return asked, await self.aside(made)
        except FacetrmError as exc:
            raise RefusalError(422, exc.problem, code="edit", fix=exc.fix) from None

    async def score(
        self, conversations: Sequence[Conversation], *, models: Sequence[RewardModel], timeout: float | None = None
    ) -> list[list[Score] | Exception]:
        """Return the scores of each conversation, one per variant, or why it has none, in order.

        If the caller is cancelled, what has not begun is not read.

        Args:
            conversations: the conversations.
            models: the variants that score each of them.
            timeout: seconds within which all are scored; None for the limit of the service.

        Raises:
            BusyError: the queue is full.
            ClosedError: the service is shutting down.
            TimeoutError: the scores were not ready in time.
        """
        seconds = min(timeout or self.config.timeout_seconds, self.config.timeout_seconds)
        deadline = time.monotonic() + seconds
        self.check_number(len(conversations))
        futures: dict[int, Future[list[Score]]] = {}
        with self.batcher.reserve(len(conversations), within=seconds):
            try:
                async with asyncio.timeout(seconds):
                    sizes = await self._sizes(conversations)
                    for n, size in enumerate(sizes):
                        if isinstance(size, int):
                            futures[n] = self.batcher.put((conversations[n], models), size, deadline=deadline)
                    waiting = [asyncio.wrap_future(future) for future in futures.values()]
                    found = dict(zip(futures, await asyncio.gather(*waiting, return_exceptions=True), strict=True))
            finally:
                for future in futures.values():
                    future.cancel()
        if any(isinstance(one, TimeoutError) for one in found.values()):
            raise TimeoutError
        results = [found[n] if isinstance(size, int) else size for n, size in enumerate(sizes)]
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, FacetrmError):
                why = {"error": type(result).__name__, "at": error_place(result)}
                log("warning", warning="a conversation was not scored", **why)
        return [result if isinstance(result, Exception | list) else RuntimeError("cancelled") for result in results]

    async def aside(self, call: Callable[[], T]) -> T:
        """Run a short function beside the event loop, on the thread that tokenises.

        Args:
            call: the function.
        """
        return await asyncio.get_running_loop().run_in_executor(self.beside, call)

    def close(self) -> bool:
        """Finish what was accepted, and return whether that was possible in time."""
        done = self.batcher.close(self.config.shutdown_seconds)
        self.beside.shutdown(wait=False, cancel_futures=True)
        return done

    def check_number(self, count: int) -> None:
        """Check that a request does not hold too many conversations.

        Args:
            count: their number.

        Raises:
            RefusalError: there are too many.
        """
        if count > self.config.max_answers:
            raise RefusalError(
                413,
                f"{count} conversations in one request, more than {self.config.max_answers}",
                code="too_many_conversations",
                fix="send several requests, or start the server with a larger serve.max_answers",
            )

    async def _sizes(self, conversations: Sequence[Conversation]) -> list[int | BackboneError]:
        """Return the number of tokens of each conversation, or why it cannot be read."""
        return await self.aside(lambda: self._measure(conversations))

    def _measure(self, conversations: Sequence[Conversation]) -> list[int | BackboneError]:
        encoder = self.model.encoder
        sizes: list[int | BackboneError] = []
        for n, messages in enumerate(conversations):
            if not isinstance(encoder, _Tokenizes):
                sizes.append(sum(len(message.content) for message in messages) // 4 + 1)
                continue
            try:
                sizes.append(len(encoder.tokenize(messages).ids))
            except BackboneError as exc:
                sizes.append(exc.at(f"conversation {n}", row=n))
        return sizes


def text_parser(model: RewardModel) -> TextParser | None:
    """Return what reads texts that a model's chat template rendered; None if it has no template.

    Args:
        model: the model.
    """
    encoder = model.encoder
    if not isinstance(encoder, TransformerEncoder) or not isinstance(encoder.chat, DecoderChat):
        return None
    chat, tokenizer = encoder.chat, encoder.tokenizer

    def has_control(text: str) -> bool:
        return any(chat.is_control(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"])

    bos, eos, pad = (str(token or "") for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token))
    return TextParser(chat.render, has_control=has_control, before=[pad, bos], after=[pad, eos])


def served_name(folder: str | Path, config: ServeConfig) -> str:
    """Return the name under which a model is served: the configured one, or that of its folder or run.

    Args:
        folder: model folder, or name of a model.
        config: settings of the service.
    """
    parts = [part for part in str(folder).split("/") if part not in ("", ".", "..")]
    named = parts[-2:-1] if parts[-1:] == ["model"] else parts[-1:]
    return config.name or "".join(named) or "model"
