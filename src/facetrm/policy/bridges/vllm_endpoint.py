"""vLLM: an endpoint plugin that adds ``POST /v1/rewards`` to a server of the backbone.

    VLLM_PLUGINS=facetrm FACETRM_MODEL=FOLDER vllm serve BACKBONE --runner pooling --convert embed

vLLM runs the backbone and returns the hidden state of every token (its task ``token_embed``, without normalisation).
The plugin renders and tokenises as at training, picks the states of the prompt's last token and of the last token, and
computes router, gate and experts in the API server, in float32.

It is written against vLLM's documented interface (``vllm.plugins.endpoint_plugins.interface`` and
``EngineClient.encode``) and tested with a stub of both. It is untried on a GPU and with a real vLLM. vLLM does not tell
which weights it serves: that they are those of the model is up to you (``facetrm doctor URL --against FOLDER`` checks).
Models with adapters or inner layers, and bidirectional encoders, are refused.

    {"conversations": [[...], ...]} or {"messages": [...]} or {"prompt": ..., "responses": [...]}
    -> {"scores": [{"reward": 1.2, "base": ..., "contributions": {...}, ...} or {"reward": null, "reason": ...}]}
"""

from __future__ import annotations

import asyncio
import os
import uuid
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.declared import check_files
from facetrm.backbone.encoder import Encoder, Features
from facetrm.backbone.passes.ahead import features_of
from facetrm.backbone.text.chat import DecoderChat, Tokenized
from facetrm.backbone.unloaded import read_unloaded
from facetrm.core.config import parse_config
from facetrm.core.errors import BackboneError, ConfigError, DataError, FacetrmError, ModelError, short
from facetrm.core.lazy import load_name
from facetrm.data.records import Conversation
from facetrm.hub.checksums import check_checksums
from facetrm.hub.load import local_folder
from facetrm.model import store
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.policy.bridges.scored import Answer, answered_messages, sampled_answer

REWARDS_PATH: Final = "/v1/rewards"
MODEL_VARIABLE: Final = "FACETRM_MODEL"
_MOST: Final = 256  # conversations of one request


@final
class RewardsPlugin:
    """vLLM's ``EndpointPlugin``: made without arguments, asked for routes, then given the engine.

    Attributes:
        name: the name for ``VLLM_PLUGINS``.
        required_tasks: the tasks of which the server must support one.
    """

    name = "facetrm"
    required_tasks: tuple[str, ...] | None = ("token_embed",)

    def attach_router(self, app: Any) -> None:
        """Add ``/v1/rewards`` to vLLM's application.

        Args:
            app: the application.
        """
        respond = load_name("starlette.responses", "JSONResponse")

        async def rewards(request: Any) -> Any:
            scorer: EngineScorer | None = getattr(request.app.state, "facetrm_rewards", None)
            if scorer is None:
                return respond(_error("this server has no engine"), status_code=503)
            try:
                answers = _asked(await request.json())
            except (ValueError, FacetrmError) as exc:
                return respond(_error(str(exc)), status_code=400)
            rows = [_shown(score) for score in await scorer.score(answers)]
            failed = all(row["reward"] is None for row in rows)
            return respond({"scores": rows}, status_code=422 if failed else 200)

        app.add_route(REWARDS_PATH, rewards, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load the heads and connect them to the engine.

        Args:
            engine_client: vLLM's client of the engine; None on a server without one.
            state: the state of the application, which keeps the scorer.
            args: the arguments of the server, which are not used.

        Raises:
            ConfigError: the variable ``FACETRM_MODEL`` is not set.
            ModelError: the model is broken, or it needs more than the last hidden states.
        """
        state.facetrm_rewards = None
        if engine_client is None:
            return
        folder = os.environ.get(MODEL_VARIABLE)
        if not folder:
            raise ConfigError(f"{MODEL_VARIABLE} is not set", place="vLLM plugin", fix="set it to the model folder")
        state.facetrm_rewards = EngineScorer(await asyncio.to_thread(load_heads, folder), engine_client)


@final
class EngineScorer:
    """Scores conversations with an engine's hidden states and a model's heads.

    Args:
        model: a model from :func:`load_heads`.
        engine: vLLM's ``EngineClient``.
    """

    def __init__(self, model: RewardModel, engine: Any) -> None:
        self.model, self._engine = model, engine
        self._params: Callable[..., Any] = load_name("vllm", "PoolingParams")

    async def score(self, answers: Sequence[Answer]) -> list[Score | FacetrmError]:
        """Return the score of each answer, or the error that says why it has none, in order.

        Args:
            answers: conversations, or the errors that say why they cannot be read.
        """
        return list(await asyncio.gather(*(self._one(answer) for answer in answers)))

    async def _one(self, answer: Answer) -> Score | FacetrmError:
        if isinstance(answer, FacetrmError):
            return answer
        try:
            encoder = self.model.encoder
            assert isinstance(encoder, RemoteTrunk)
            row = await asyncio.to_thread(encoder.tokenize, answer)
            features = _features(row, await self._states(row), encoder.hidden_size)
            return (await asyncio.to_thread(self.model.score_features, features))[0]
        except FacetrmError as exc:
            return exc

    async def _states(self, row: Tokenized) -> Tensor:
        """Return the last hidden state of each token, [L, D]."""
        outputs = self._engine.encode(
            prompt={"prompt_token_ids": list(row.ids)},
            pooling_params=self._params(task="token_embed", use_activation=False),
            request_id=f"facetrm-{uuid.uuid4().hex}",
        )
        last = None
        try:
            async for output in outputs:
                last = output
        except ValueError as exc:  # how vLLM refuses a prompt, such as one that is too long for it
            raise ModelError(f"the engine refused it ({short(str(exc), 200)})", place="vLLM") from None
        if last is None:
            raise ModelError("the engine returned no hidden states", place="vLLM", fix="see the log of the server")
        return torch.as_tensor(last.outputs.data)


@final
class RemoteTrunk:
    """The encoder of a model whose trunk runs elsewhere: it tokenises, and knows what its features must look like.

    Args:
        config: the settings of the backbone.
        known: the manifest's section about the encoder.

    Raises:
        BackboneError: the tokenizer cannot be read.
        ModelError: the backbone is no decoder, or its template is another one.
    """

    mode: Final = "fast"  # an engine batches as it likes

    def __init__(self, config: BackboneConfig, known: dict[str, Any]) -> None:
        self._spec, self._known = config.model_dump(mode="json"), known
        found = read_unloaded(config)
        self._chat, limits = found.chat, [n for n in (config.max_tokens, found.max_tokens) if n is not None]
        self._most = min(limits, default=None)
        if not isinstance(self._chat, DecoderChat):
            raise ModelError("the backbone is no decoder", place="vLLM plugin", fix="score it with facetrm")
        if self._chat.template_hash != self.template_hash:
            raise ModelError("the chat template differs from that of training", place="vLLM plugin", fix="restore it")

    @property
    def hidden_size(self) -> int:
        """The width D of the hidden state."""
        return int(self._known["hidden_size"])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder that the model was fitted on."""
        return str(self._known["fingerprint"])

    @property
    def template_hash(self) -> str:
        """The hash of the chat template of training."""
        return str(self._known["template_hash"])

    def spec(self) -> dict[str, object]:
        """Return the settings of the backbone."""
        return dict(self._spec)

    def tokenize(self, messages: Conversation) -> Tokenized:
        """Return the tokens of a conversation; one that is too long is refused, never truncated.

        Args:
            messages: the conversation, ending with an answer.

        Raises:
            BackboneError: the conversation cannot be rendered, or is too long.
        """
        row = self._chat.tokenize(messages, row=0)
        if self._most is not None and len(row.ids) > self._most:
            raise BackboneError(f"{len(row.ids)} tokens, more than {self._most}", place="vLLM plugin", fix="shorten it")
        return row

    def encode(self, conversations: Sequence[Conversation], *, on_batch: object = None) -> Features:
        """Refuse to encode: the trunk runs in the engine.

        Args:
            conversations: conversations.
            on_batch: not used.

        Raises:
            ModelError: always, unless there is nothing to encode.
        """
        if conversations:
            raise ModelError("the trunk runs in vLLM", place="vLLM plugin", fix="score through the plugin")
        return Features.empty(self.hidden_size)


def load_heads(folder: str | Path) -> RewardModel:
    """Load a model without its trunk.

    Args:
        folder: a model folder that ``RewardModel.save`` wrote, such as that of a run.

    Returns:
        The model, whose encoder is a :class:`RemoteTrunk`. It has the hash of the whole model.

    Raises:
        ModelError: the folder is broken, the backbone needs its own code or an adapter, or the experts read more than
            the last hidden states of the bare trunk.
        BackboneError: the tokenizer cannot be read.
    """
    place = local_folder(folder)
    check_files(place, ModelError)
    check_checksums(place)
    saved = store.load(place)

    def make(spec: dict[str, object]) -> Encoder:
        config = parse_config(BackboneConfig, dict(spec), place=place / store.MODEL_MANIFEST)
        for what, used in (("its own code", config.trust_remote_code), ("an adapter", config.adapter)):
            if used:
                raise ModelError(f"the backbone needs {what}", place=place, fix="score it with facetrm")
        return RemoteTrunk(config, saved.manifest["encoder"])

    encoder = store.load_same_encoder(place, saved.manifest, make)
    routing = {} if saved.fallback is None else saved.fallback.to_dict()
    mixtures = saved.mixtures.values()
    if any(mixture.adapters or mixture.layers for mixture in mixtures):
        problem = "experts read adapters or inner layers, but vLLM returns the last hidden states of the bare trunk"
        raise ModelError(problem, place=place, fix="score it with facetrm")
    return RewardModel(encoder, saved.mixtures, saved.router, **routing, provenance=saved.manifest["provenance"])


def _features(row: Tokenized, states_LD: Tensor, hidden_size: int) -> Features:
    if tuple(states_LD.shape) != (len(row.ids), hidden_size):
        raise ModelError(
            f"the engine returned states of shape {list(states_LD.shape)} for {len(row.ids)} tokens",
            place="vLLM",
            fix=f"serve the backbone of the model (width {hidden_size}) with --runner pooling --convert embed",
        )
    states_LD = states_LD.detach().float().cpu()
    return features_of([row], states_LD[row.prompt_end][None], states_LD[-1][None, None])


def _asked(body: Any) -> list[Answer]:
    """Return the answers of a request."""
    if not isinstance(body, dict):
        raise DataError(f"the body is {short(body, 60)}", fix="send an object with conversations")
    read: Callable[[Any], Answer] = answered_messages
    if "conversations" in body:
        rows = body["conversations"]
    elif "messages" in body:
        rows = [body["messages"]]
    elif "prompt" in body and "responses" in body:
        rows, read = body["responses"], partial(sampled_answer, body["prompt"])
    else:
        raise DataError(f"the body has only {short(sorted(body), 60)}", fix="send conversations, or messages")
    if not isinstance(rows, list) or not 1 <= len(rows) <= _MOST:
        raise DataError("not a list of conversations", fix=f"send 1 to {_MOST} in one request")
    return [read(row) for row in rows]


def _shown(score: Score | FacetrmError) -> dict[str, Any]:
    return {"reward": None, "reason": str(score)} if isinstance(score, FacetrmError) else score.to_dict()


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError"}}
