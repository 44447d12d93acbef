"""The forward passes of a decoder, which compute the prompt and response vectors.

    fast    conversations are packed without padding; shared prompts and duplicate conversations are computed once
    exact   one conversation per pass, without padding, so that a score never depends on other rows, bit for bit

The first call checks the fast paths: compiled code, the attention kernel, and packing. Each one that fails its check or
is not supported is disabled with a log message; without packing, the model reads padded batches. If memory runs out,
the size of a pass is halved and the pass is retried.

With A named adapters, the layers below the first adapted one run once, without adapters. The layers above run once
without adapters, over the prompts only, and once for each adapter. In ``exact`` mode nothing is shared.

Shapes: N conversations, B conversations per pass, T tokens per pack, L tokens in the longest row of a batch, D hidden
size, A adapters.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias, final

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel

from facetrm.backbone.config import Mode
from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.lora.sharing import SharedLayers, SharedReading, read_each
from facetrm.backbone.lora.switching import first_layer, known_adapters, switched
from facetrm.backbone.passes.attention import PackingError, kernel_error, read_packed
from facetrm.backbone.passes.batching import pad_right, token_batches
from facetrm.backbone.passes.packing import PackedPass, pack_rows
from facetrm.backbone.passes.varlen import Kernel, kernel_for
from facetrm.backbone.text.chat import Ids, Tokenized
from facetrm.core.errors import BackboneError
from facetrm.core.progress import log

OnBatch: TypeAlias = Callable[[int, int], None]

TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest relative error (by norm) allowed for a vector from a pack, compared with the conversation read alone."""

_STRETCHED: Final = frozenset({"dynamic", "longrope"})  # RoPE types whose positions depend on the longest row of a pass
_CACHED: Final = 1024  # tokens whose activations fit into CPU caches; longer packs are no faster on a CPU


@dataclass(frozen=True)
class _Pass:
    """One pass: indices of its conversations, token count, and a function returning vectors [B, D] and [B, A, D]."""

    rows: list[int]
    tokens: int
    read: Callable[[], tuple[Tensor, Tensor]]


@final
class DecoderEngine:
    """Runs a causal trunk over conversations, one thread at a time.

    Args:
        model: trunk; it must be in evaluation mode during reads.
        mode: ``fast`` or ``exact``.
        token_budget: maximum tokens per pass; a longer conversation gets its own pass.
        pad: padding token id for batches; any valid id works.
        inputs: names of the arguments of the model's forward method.
        compiled: compiled version of ``model``, for ``fast`` mode; None for none.
        kernel: kernel that computes all segments of a pack in one call; None selects PyTorch's, if available.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        mode: Mode,
        token_budget: int,
        pad: int,
        inputs: frozenset[str],
        compiled: Callable[..., Any] | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.model, self.mode, self.token_budget = model, mode, token_budget
        self._pad, self._inputs = pad, inputs
        self._compiled = compiled
        self._kernel = kernel_for(model.device, model.dtype) if kernel is None else kernel
        self._filler = pad if model.device.type == "cpu" and model.dtype != torch.float32 else None  # uses oneDNN
        self._packs: bool | None = None
        self._shares: dict[int, bool] = {}

    @torch.no_grad()
    def read(self, rows: Sequence[Tokenized], on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        """Return the prompt vectors and response vectors, each [N, D], float32 on the CPU.

        Args:
            rows: N tokenised conversations.
            on_batch: function called with (rows, tokens) after each pass.

        Raises:
            BackboneError: Not even a single conversation fits into memory.
        """
        with trunk_lock(self.model):
            prompt_ND, response_NAD = self._read(rows, on_batch, adapters=None)
        return prompt_ND, response_NAD[:, 0]

    @torch.no_grad()
    def read_adapted(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, *, adapters: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return the prompt vectors [N, D] of the bare trunk, and the response vectors [N, A, D] of each adapter.

        Args:
            rows: N tokenised conversations.
            on_batch: function called with (rows, tokens) after each pass.
            adapters: names of A adapters.

        Raises:
            BackboneError: An adapter is unknown, or not even a single conversation fits into memory.
        """
        with trunk_lock(self.model):
            known_adapters(self.model, adapters)
            if self.mode == "fast":
                return self._read(rows, on_batch, adapters=adapters)
            return self.read_prompts(rows), self._read(rows, on_batch, adapters=adapters)[1]

    @torch.no_grad()
    def read_prompts(self, rows: Sequence[Tokenized]) -> Tensor:
        """Return the prompt vectors [N, D] of the bare trunk; each prompt is read once, and responses are not read.

        Args:
            rows: N tokenised conversations.

        Raises:
            BackboneError: Not even a single prompt fits into memory.
        """
        number: dict[Ids, int] = {}
        which = [number.setdefault(row.ids[: row.prompt_end + 1], len(number)) for row in rows]
        prompts = [Tokenized(ids, len(ids) - 1, len(ids), 0) for ids in number]
        return self.read(prompts, lambda rows, tokens: None)[1][which]

    def _read(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, *, adapters: Sequence[str] | None
    ) -> tuple[Tensor, Tensor]:
        if self.mode == "fast" and self._packs is None:
            with switched(self.model, None):
                self._packs = self._can_pack()
        passes = self._alone if self.mode == "exact" else self._packed if self._packs else self._padded
        asked = None if adapters is None else SharedReading(adapters, self._shared_layers(adapters))
        size = int(self.model.config.get_text_config().hidden_size)
        # Give the dtype explicitly, because a thread that loads a model changes the default dtype.
        prompt_ND = torch.empty(len(rows), size, device=self.model.device, dtype=torch.float32)
        response_NAD = prompt_ND.new_empty(len(rows), 1 if adapters is None else len(adapters), size)

        def read(numbers: Sequence[int], budget: int) -> None:
            for one in passes([rows[n] for n in numbers], budget, asked):
                here = [numbers[n] for n in one.rows]
                vectors = _unless_out_of_memory(one.read)
                if vectors is None:
                    if len({rows[n].ids for n in here}) == 1:
                        raise _too_long(len(rows[here[0]].ids))
                    self._free(tokens=one.tokens, next_try=one.tokens // 2)
                    read(here, one.tokens // 2)
                    continue
                at_B = torch.tensor(here, device=self.model.device)
                prompt_ND[at_B], response_NAD[at_B] = vectors[0].float(), vectors[1].float()
                on_batch(len(here), sum(len(rows[n].ids) for n in here))

        read(range(len(rows)), self.token_budget)
        prompt_ND, response_NAD = prompt_ND.cpu(), response_NAD.cpu()
        return prompt_ND if self.mode == "exact" else _shared(prompt_ND, rows), response_NAD

    def _alone(self, rows: Sequence[Tokenized], budget: int, asked: SharedReading | None) -> Iterator[_Pass]:
        for n, row in enumerate(rows):
            yield _Pass([n], len(row.ids), partial(self._read_batch, [row.ids], [0], [row.prompt_end], asked))

    def _packed(self, rows: Sequence[Tokenized], budget: int, asked: SharedReading | None) -> Iterator[_Pass]:
        enough = _CACHED if self.model.device.type == "cpu" else None
        prompts = [row.prompt_end + 1 for row in rows]
        packs = pack_rows([row.ids for row in rows], prompts, token_budget=budget, enough=enough)
        for n, whole in enumerate(packs):
            pack = whole.filled(self._filler, most=budget, later=n > 0)
            yield _Pass(pack.rows, len(pack.ids), partial(self._read_pack, pack, asked))

    def _read_pack(self, pack: PackedPass, asked: SharedReading | None = None) -> tuple[Tensor, Tensor]:
        if asked is None:
            with switched(self.model, None):
                hidden_TD = self._run(partial(read_packed, self.model, pack, kernel=self._kernel))
            return hidden_TD[pack.ends], hidden_TD[pack.lasts].unsqueeze(1)

        def read(one: PackedPass, layers: int) -> Tensor:
            return read_packed(self.model, one, kernel=self._kernel, layers=layers)

        prompts, tokens = pack.prompts(pad=self._filler)
        return read_each(
            self.model,
            asked,
            partial(read, pack),
            prompt=lambda shared: shared.above(partial(read, prompts), tokens=tokens)[prompts.ends],
            response=lambda hidden_TD: hidden_TD[pack.lasts],
        )

    def _padded(self, rows: Sequence[Tokenized], budget: int, asked: SharedReading | None) -> Iterator[_Pass]:
        equal: dict[Ids, list[int]] = {}
        for n, row in enumerate(rows):
            equal.setdefault(row.ids, []).append(n)
        unique = list(equal)
        for batch in token_batches([len(ids) for ids in unique], token_budget=budget):
            ids = [unique[b] for b in batch]
            here = [(n, line) for line, row in enumerate(ids) for n in equal[row]]
            numbers, lines = [n for n, _ in here], [line for _, line in here]
            ends = [rows[n].prompt_end for n in numbers]
            tokens = len(ids) * max(map(len, ids))
            yield _Pass(numbers, tokens, partial(self._read_batch, ids, lines, ends, asked))

    def _read_batch(
        self, ids: Sequence[Ids], lines: list[int], ends: list[int], asked: SharedReading | None = None
    ) -> tuple[Tensor, Tensor]:
        lasts = [len(ids[line]) - 1 for line in lines]
        if asked is None:
            with switched(self.model, None):
                hidden_NLD = self._run(partial(self._plain, ids))
            return hidden_NLD[lines, ends], hidden_NLD[lines, lasts].unsqueeze(1)

        def read(layers: int) -> Tensor:
            return self._plain(ids)

        def prompt(shared: SharedLayers) -> Tensor:
            if self.mode == "exact":  # read_adapted reads the prompts separately
                return torch.zeros(len(lines), 1, device=self.model.device, dtype=torch.float32)
            return shared.above(read)[lines, ends]

        return read_each(self.model, asked, read, prompt=prompt, response=lambda hidden_NLD: hidden_NLD[lines, lasts])

    def _plain(self, rows: Sequence[Ids], *, forward: Callable[..., Any] | None = None) -> Tensor:
        """Return the last hidden states [N, L, D] of a batch padded on the right."""
        device = self.model.device
        ids_NL, mask_NL = pad_right(rows, pad=self._pad)
        inputs = {"input_ids": ids_NL.to(device)}
        if len(rows) > 1:
            inputs["attention_mask"] = mask_NL.to(device)
        if "position_ids" in self._inputs:
            inputs["position_ids"] = torch.arange(ids_NL.shape[1], device=device).expand_as(ids_NL)
        cache = {"use_cache": False} if "use_cache" in self._inputs else {}
        read = self.model if forward is None else forward
        hidden_NLD: Tensor = read(**inputs, **cache).last_hidden_state
        return hidden_NLD

    def _run(self, read: Callable[..., Tensor]) -> Tensor:
        """Call ``read`` with the compiled model, or with the model itself if compilation fails."""
        if self._compiled is not None:
            try:
                return read(forward=self._compiled)
            except TorchDynamoException as exc:
                self._give_up("compile", " ".join(str(exc).strip().split("\n\n")[0].split()))
        return read()

    def _give_up(
        self, what: Literal["compile", "the attention kernel", "packing", "sharing of layers"], reason: str
    ) -> None:
        log(f"{what} is off", reason=reason)
        if what == "compile":
            self._compiled = None
        elif what == "the attention kernel":
            self._kernel = None

    def _can_pack(self) -> bool:
        """Return whether packing works: five short conversations must give the same vectors packed and alone."""
        if self._kernel is not None and (reason := self._why_no_kernel(self._kernel)) is not None:
            self._give_up("the attention kernel", reason)
        if self._compiled is not None and (reason := self._why_not_compiled()) is not None:
            self._give_up("compile", reason)
        if (reason := self._why_not()) is not None:
            self._give_up("packing", reason)
        return reason is None

    def _why_no_kernel(self, kernel: Kernel) -> str | None:
        try:
            worst = kernel_error(kernel, dtype=self.model.dtype, device=self.model.device)
        except (RuntimeError, TypeError, ValueError) as exc:
            return str(exc).strip().splitlines()[0]
        limit = TOLERANCE.get(self.model.dtype, 1e-3)
        return f"it differs from attention by segments by {worst:.2g} (relative norm)" if worst > limit else None

    def _why_not_compiled(self) -> str | None:
        rows, _ = self._probes()
        plain_NLD = self._plain(rows[:1])
        found_NLD = self._run(partial(self._plain, rows[:1]))
        return self._differs(found_NLD[0], plain_NLD[0], "it differs from the model")

    @torch.no_grad()
    def _why_not(self) -> str | None:
        text = self.model.config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or {}
        kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
        if kinds & _STRETCHED:
            return f"positions of type {', '.join(sorted(kinds & _STRETCHED))} depend on the longest row of a pass"
        if "position_ids" not in self._inputs:
            return "the model takes no position_ids"
        ids, prompts = self._probes()
        (pack,) = pack_rows(ids, prompts, token_budget=10_000)
        alone_ND = torch.stack([self._plain([ids[n]])[0, -1] for n in pack.rows])
        while True:
            try:
                packed_ND = self._read_pack(pack)[1][:, 0]
            except PackingError as exc:
                return str(exc)
            except RuntimeError as exc:
                if self._kernel is None:
                    raise
                self._give_up("the attention kernel", str(exc).strip().splitlines()[0])
                continue
            reason = self._differs(packed_ND, alone_ND, "a conversation in a pack differs from itself alone")
            if reason is not None and self._compiled is not None:
                self._give_up("compile", reason)
            elif reason is not None and self._kernel is not None:
                self._give_up("the attention kernel", reason)
            else:
                return reason

    def _shared_layers(self, adapters: Sequence[str]) -> int:
        """Return the number of layers that run once for all ``adapters``: those below the first adapted layer.

        The first call for each number checks on five short conversations that sharing does not change the vectors.
        """
        share = 0 if self.mode == "exact" else first_layer(self.model, adapters)
        if share and share not in self._shares:
            reason = self._why_not_shared(share, adapters)
            self._shares[share] = reason is None
            if reason is not None:
                self._give_up("sharing of layers", reason)
        return share if self._shares.get(share) else 0

    def _why_not_shared(self, share: int, adapters: Sequence[str]) -> str | None:
        ids, prompts = self._probes()
        (pack,) = pack_rows(ids, prompts, token_budget=10_000)

        def read(share: int) -> Tensor:
            if self._packs:
                prompt_ND, response_NAD = self._read_pack(pack, SharedReading(adapters, share))
            else:
                ends = [end - 1 for end in prompts]
                prompt_ND, response_NAD = self._read_batch(
                    ids, [*range(len(ids))], ends, SharedReading(adapters, share)
                )
            return torch.cat([prompt_ND, response_NAD.flatten(0, 1)])

        whole_ND = read(0)
        try:
            return self._differs(read(share), whole_ND, "a conversation read with shared layers differs from itself")
        except (PackingError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as exc:
            return (str(exc).strip() or type(exc).__name__).splitlines()[0]

    def _probes(self) -> tuple[list[Ids], list[int]]:
        """Return the token ids and prompt lengths of five short conversations, four of which share a prompt."""
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        rows = [tuple((7 * i * i + 3 * n) % vocabulary for i in range(1, 12 + n)) for n in range(2)]
        return [rows[0], rows[0][:5] + rows[1], rows[1], rows[0] + rows[1], rows[0][:7]], [5, 5, 4, 5, 5]

    def _differs(self, found_ND: Tensor, expected_ND: Tensor, what: str) -> str | None:
        gap_N = (found_ND.float() - expected_ND.float()).norm(dim=-1)
        worst = float((gap_N / expected_ND.float().norm(dim=-1).clamp_min(1e-6)).max())
        limit = TOLERANCE.get(self.model.dtype, 1e-3)
        return None if worst <= limit else f"{what} by {worst:.2g} (relative norm)"

    def _free(self, *, tokens: int, next_try: int) -> None:
        log("out of memory", tokens=tokens, next_try=next_try)
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()


def _unless_out_of_memory(read: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Return the result of ``read``, or None if memory runs out (this frees the tensors that the error refers to)."""
    try:
        return read()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as exc:
        if "can't allocate memory" not in str(exc):  # message of the CPU allocator
            raise
        return None


def _shared(prompt_ND: Tensor, rows: Sequence[Tokenized]) -> Tensor:
    """Return the prompt vectors, with the first vector of each prompt for all its occurrences.

    A prompt may be read in several passes with different rounding; the gate must weigh all its answers equally.
    """
    first: dict[Ids, int] = {}
    return prompt_ND[[first.setdefault(row.ids[: row.prompt_end + 1], n) for n, row in enumerate(rows)]]


def _too_long(tokens: int) -> BackboneError:
    return BackboneError(
        f"a conversation of {tokens} tokens does not fit into memory",
        fix="lower backbone.max_tokens, use a smaller dtype, or a device with more memory",
    )
