"""The forward passes of a decoder, which compute the prompt and response vectors.

    fast    conversations are packed without padding; shared prompts and duplicate conversations are computed once
    exact   one conversation per pass, without padding, so that a score never depends on other rows, bit for bit

The first call checks the fast paths: compiled code, the attention kernel, and packing. Each one that fails its check or
is not supported is disabled with a log message; without packing, the model reads padded batches. If memory runs out,
the size of a pass is halved and the pass is retried.

With A named adapters, the layers below the first adapted one run once, without adapters. The layers above run once
without adapters, over the prompts only, and once for each adapter. In ``exact`` mode nothing is shared. With A layers,
one pass gives all of them; the layers above the highest one read only the prompts.

Shapes: N conversations, B conversations per pass, T tokens per pack, L tokens in the longest row of a batch, D hidden
size, A adapters or layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias, final

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel

from facetrm.backbone.config import Mode
from facetrm.backbone.encoder import LAST, Layer
from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.lora.sharing import SharedLayers, SharedReading, read_each
from facetrm.backbone.lora.switching import first_layer, known_adapters, switched
from facetrm.backbone.passes.attention import PackingError, kernel_problem, read_packed
from facetrm.backbone.passes.batching import first_with_prompt, pad_right, token_batches
from facetrm.backbone.passes.packing import PackedPass, pack_rows
from facetrm.backbone.passes.probes import positions_problem, probes, vector_gap
from facetrm.backbone.passes.retrying import free_memory, too_long, unless_out_of_memory
from facetrm.backbone.passes.tapping import LayerReading, check_layers, read_at
from facetrm.backbone.passes.varlen import Kernel, kernel_for
from facetrm.backbone.text.chat import Ids, Tokenized
from facetrm.core.progress import log

OnBatch: TypeAlias = Callable[[int, int], None]
_Path: TypeAlias = Literal["compile", "the attention kernel", "packing", "sharing of layers", "stopping at a layer"]
_Asked: TypeAlias = SharedReading | LayerReading | None

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
        self._stops: dict[int, bool] = {}
        self._layers: frozenset[Layer] = frozenset()  # those that were checked

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
            prompt_ND, response_NAD = self._read(rows, on_batch, None)
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
            self._check_packing()
            return self._read_several(rows, on_batch, SharedReading(adapters, self._shared_layers(adapters)))

    @torch.no_grad()
    def read_layers(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, *, layers: tuple[Layer, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the prompt vectors [N, D] of the last layer, and the response vectors [N, A, D] of each layer.

        Args:
            rows: N tokenised conversations.
            on_batch: function called with (rows, tokens) after each pass.
            layers: names of A layers, in order.

        Raises:
            BackboneError: A layer cannot be read, or not even a single conversation fits into memory.
        """
        with trunk_lock(self.model):
            self._check_packing()
            if layers == (LAST,):
                return self._read(rows, on_batch, None)
            if not self._layers.issuperset(layers):
                ids = probes(self.model)[0][:1]
                check_layers(self.model, layers, lambda forward: self._plain(ids, forward=forward))
                self._layers |= set(layers)
            return self._read_several(rows, on_batch, self._stopping(LayerReading(layers)))

    def _read_several(
        self, rows: Sequence[Tokenized], on_batch: OnBatch, asked: SharedReading | LayerReading
    ) -> tuple[Tensor, Tensor]:
        if self.mode == "fast":
            return self._read(rows, on_batch, asked)
        return self.read_prompts(rows), self._read(rows, on_batch, asked)[1]

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

    def _check_packing(self) -> None:
        if self.mode == "fast" and self._packs is None:
            with switched(self.model, None):
                self._packs = self._can_pack()

    def _read(self, rows: Sequence[Tokenized], on_batch: OnBatch, asked: _Asked) -> tuple[Tensor, Tensor]:
        self._check_packing()
        passes = self._alone if self.mode == "exact" else self._packed if self._packs else self._padded
        size = int(self.model.config.get_text_config().hidden_size)
        # Give the dtype explicitly, because a thread that loads a model changes the default dtype.
        prompt_ND = torch.empty(len(rows), size, device=self.model.device, dtype=torch.float32)
        response_NAD = prompt_ND.new_empty(len(rows), 1 if asked is None else len(asked), size)

        def read(numbers: Sequence[int], budget: int) -> None:
            for one in passes([rows[n] for n in numbers], budget, asked):
                here = [numbers[n] for n in one.rows]
                vectors = unless_out_of_memory(one.read)
                if vectors is None:
                    if len({rows[n].ids for n in here}) == 1:
                        raise too_long(len(rows[here[0]].ids))
                    free_memory(self.model.device, tokens=one.tokens, next_try=one.tokens // 2)
                    read(here, one.tokens // 2)
                    continue
                at_B = torch.tensor(here, device=self.model.device)
                prompt_ND[at_B], response_NAD[at_B] = vectors[0].float(), vectors[1].float()
                on_batch(len(here), sum(len(rows[n].ids) for n in here))

        read(range(len(rows)), self.token_budget)
        prompt_ND, response_NAD = prompt_ND.cpu(), response_NAD.cpu()
        return prompt_ND if self.mode == "exact" else prompt_ND[first_with_prompt(rows)], response_NAD

    def _alone(self, rows: Sequence[Tokenized], budget: int, asked: _Asked) -> Iterator[_Pass]:
        for n, row in enumerate(rows):
            yield _Pass([n], len(row.ids), partial(self._read_batch, [row.ids], [0], [row.prompt_end], asked))

    def _packed(self, rows: Sequence[Tokenized], budget: int, asked: _Asked) -> Iterator[_Pass]:
        enough = _CACHED if self.model.device.type == "cpu" else None
        prompts = [row.prompt_end + 1 for row in rows]
        packs = pack_rows([row.ids for row in rows], prompts, token_budget=budget, enough=enough)
        for n, whole in enumerate(packs):
            pack = whole.filled(self._filler, most=budget, later=n > 0)
            yield _Pass(pack.rows, len(pack.ids), partial(self._read_pack, pack, asked))

    def _read_pack(self, pack: PackedPass, asked: _Asked = None) -> tuple[Tensor, Tensor]:
        if asked is None:
            with switched(self.model, None):
                hidden_TD = self._run(partial(read_packed, self.model, pack, kernel=self._kernel))
            return hidden_TD[pack.ends], hidden_TD[pack.lasts].unsqueeze(1)

        def read(one: PackedPass, layers: int) -> Tensor:
            return read_packed(self.model, one, kernel=self._kernel, layers=layers)

        prompts, tokens = pack.prompts(pad=self._filler)

        def prompt(shared: SharedLayers, hidden_TD: Tensor | None = None) -> Tensor:
            if hidden_TD is not None:
                return hidden_TD[pack.ends]
            return shared.above(partial(read, prompts), tokens=tokens)[prompts.ends]

        def response(hidden: Tensor) -> Tensor:
            return (hidden[0] if hidden.ndim == 3 else hidden)[pack.lasts]

        if isinstance(asked, LayerReading):
            return read_at(self.model, asked, partial(read, pack), prompt=prompt, pick=response)
        return read_each(self.model, asked, partial(read, pack), prompt=prompt, response=response)

    def _padded(self, rows: Sequence[Tokenized], budget: int, asked: _Asked) -> Iterator[_Pass]:
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
        self, ids: Sequence[Ids], lines: list[int], ends: list[int], asked: _Asked = None
    ) -> tuple[Tensor, Tensor]:
        lasts = [len(ids[line]) - 1 for line in lines]
        if asked is None:
            with switched(self.model, None):
                hidden_NLD = self._run(partial(self._plain, ids))
            return hidden_NLD[lines, ends], hidden_NLD[lines, lasts].unsqueeze(1)

        width = max(ends) + 1

        def read(layers: int) -> Tensor:
            return self._plain(ids)

        def read_prompts(layers: int) -> Tensor:
            return self._plain([row[:width] for row in ids])

        def prompt(shared: SharedLayers, hidden_NLD: Tensor | None = None) -> Tensor:
            if self.mode == "exact":  # the prompts are read separately
                return torch.zeros(len(lines), 1, device=self.model.device, dtype=torch.float32)
            if hidden_NLD is not None:
                return hidden_NLD[lines, ends]
            return shared.above(read_prompts, tokens=range(width))[lines, ends]

        def response(hidden_NLD: Tensor) -> Tensor:
            return hidden_NLD[lines, lasts]

        if isinstance(asked, LayerReading):
            return read_at(self.model, asked, read, prompt=prompt, pick=response)
        return read_each(self.model, asked, read, prompt=prompt, response=response)

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

    def _give_up(self, what: _Path, reason: str) -> None:
        log(f"{what} is off", reason=reason)
        if what == "compile":
            self._compiled = None
        elif what == "the attention kernel":
            self._kernel = None

    def _can_pack(self) -> bool:
        """Return whether packing works: five short conversations must give the same vectors packed and alone."""
        if self._kernel is not None and (reason := kernel_problem(self._kernel, self.model)) is not None:
            self._give_up("the attention kernel", reason)
        if self._compiled is not None and (reason := self._why_not_compiled()) is not None:
            self._give_up("compile", reason)
        if (reason := self._why_not()) is not None:
            self._give_up("packing", reason)
        return reason is None

    def _why_not_compiled(self) -> str | None:
        rows, _ = probes(self.model)
        plain_NLD = self._plain(rows[:1])
        found_NLD = self._run(partial(self._plain, rows[:1]))
        return self._differs(found_NLD[0], plain_NLD[0], "it differs from the model")

    @torch.no_grad()
    def _why_not(self) -> str | None:
        if (reason := positions_problem(self.model, self._inputs)) is not None:
            return reason
        ids, prompts = probes(self.model)
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
            reason = self._why_not_equal(SharedReading(adapters), SharedReading(adapters, share), "with shared layers")
            self._shares[share] = reason is None
            if reason is not None:
                self._give_up("sharing of layers", reason)
        return share if self._shares.get(share) else 0

    def _stopping(self, asked: LayerReading) -> LayerReading:
        """Return the same layers with a stop at the highest one, if that does not change the vectors."""
        stop = asked.highest
        stopping = LayerReading(asked.layers, stop)
        if stop and stop not in self._stops:
            reason = self._why_not_equal(asked, stopping, f"up to layer {stop}")
            self._stops[stop] = reason is None
            if reason is not None:
                self._give_up("stopping at a layer", reason)
        return stopping if self._stops.get(stop) else asked

    def _why_not_equal(self, plain: _Asked, quick: _Asked, how: str) -> str | None:
        """Return why the quicker of two readings does not give the vectors of the plain one; None if it does."""
        ids, prompts = probes(self.model)
        (pack,) = pack_rows(ids, prompts, token_budget=10_000)

        def read(asked: _Asked) -> Tensor:
            if self._packs:
                prompt_ND, response_NAD = self._read_pack(pack, asked)
            else:
                prompt_ND, response_NAD = self._read_batch(ids, [*range(len(ids))], [end - 1 for end in prompts], asked)
            return torch.cat([prompt_ND.expand(-1, response_NAD.shape[-1]), response_NAD.flatten(0, 1)])

        whole_ND = read(plain)
        try:
            return self._differs(read(quick), whole_ND, f"a conversation read {how} differs from itself")
        except (PackingError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as exc:
            return (str(exc).strip() or type(exc).__name__).splitlines()[0]

    def _differs(self, found_ND: Tensor, expected_ND: Tensor, what: str) -> str | None:
        return vector_gap(found_ND, expected_ND, what, dtype=self.model.dtype)
