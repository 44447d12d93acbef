"""The bodies of responses of the native routes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """Why a request, or one of its conversations, has no answer."""

    type: str = Field(description="The kind of error; it depends only on the status.")
    code: str = Field(description="What is wrong, for programs.")
    message: str = Field(description="What is wrong, for people.")
    fix: str | None = Field(default=None, description="What can be done about it.")
    row: int | None = Field(default=None, description="Index of the conversation that is the cause.")
    retry_after: int | None = Field(default=None, description="Seconds after which to try again.")


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail
    request_id: str = ""


class Provenance(BaseModel):
    """What the scores depend on besides the conversations."""

    model: str = Field(description="Name of the served model.")
    model_hash: str = Field(description="Hash of the model with the request's edit; equal hashes give equal scores.")
    template_hash: str = Field(description="Hash of the chat template.")
    mode: str = Field(description="'exact': a score depends on nothing else that is scored; 'fast': last digits may.")
    dtype: str = Field(description="Data type of the backbone's weights.")


class EditBody(BaseModel):
    """The edit that the request asked for."""

    objective_weights: dict[str, float]
    mask: list[str]
    unedited_model_hash: str


class Usage(BaseModel):
    """What was read."""

    tokens: int = Field(description="Tokens of all scored conversations.")


class RowScore(BaseModel):
    """The score of one conversation: ``reward = base + sum(contributions)``, or null and the reason."""

    index: int = Field(description="Index of the conversation in the request.")
    reward: float | None
    base: float | None = Field(default=None, description="The reward of a reference answer to this prompt.")
    contributions: dict[str, float] = Field(default={}, description="What each objective adds to the reward.")
    scores: dict[str, float] = Field(default={}, description="Ratings on the [0, 1] scale, not clipped.")
    ratings: dict[str, float] = Field(default={}, description="The same ratings on the scales of their sources.")
    weights: dict[str, float] = Field(default={}, description="The gate's weights; empty if there is no gate.")
    coefficients: dict[str, float] = Field(default={}, description="Reward per unit of each score, if it is a sum.")
    uncertainty: dict[str, Any] | None = Field(
        default=None,
        description="Standard deviations: 'reward', 'ratings' by objective on the [0, 1] scale, 'gate' over seeds; and "
        "'lower_tails' of quantile heads. Null if the model stores none.",
    )
    task: str | None = None
    routed: str | None = Field(default=None, description="The task that the router chose.")
    confidence: float | None = Field(default=None, description="The router's probability of that task.")
    tokens: int | None = None
    length: int | None = Field(default=None, description="Tokens of the answer.")
    truncated: bool = False
    unknown: float | None = Field(default=None, description="Share of the tokens that the tokenizer does not know.")
    settings: dict[str, str | int] = Field(default={}, description="Reading settings changed when the server started.")
    error: ErrorDetail | None = None


class RewardsResponse(BaseModel):
    """The scores, in the order of the request."""

    id: str
    scores: list[RowScore]
    provenance: Provenance
    edit: EditBody | None = None
    usage: Usage


class ExplainResponse(BaseModel):
    """The explanation of one answer or of a pair; the same as ``facetrm explain --json`` prints."""

    id: str
    kind: str = Field(description="'answer' or 'pair'.")
    explanation: dict[str, Any]
    flip: dict[str, Any] | None = Field(default=None, description="What would reverse a pair; null if not defined.")
    provenance: Provenance
    edit: EditBody | None = None


class BestOfResponse(BaseModel):
    """The answers from best to worst; equal rewards keep the order of the request."""

    id: str
    winner: int = Field(description="Index of the best answer.")
    margin: float | None = Field(description="Its lead over the second; null if there is only one answer.")
    facts: list[str] = Field(description="Why it is ahead of the second, in sentences.")
    ranked: list[RowScore]
    provenance: Provenance
    edit: EditBody | None = None
    usage: Usage


class ObjectiveBody(BaseModel):
    """One objective, and the scale of its ratings."""

    name: str
    low: float
    high: float
    direction: str
    meaning: str
    source: str
    rater: str


class TaskBody(BaseModel):
    """One task of the model, with its objectives."""

    name: str
    aggregator: str
    beta: float = Field(description="P(A is better than B) = sigmoid(beta * margin).")
    editable: list[str] = Field(description="What a request can change: objective_weights, mask.")
    objectives: list[ObjectiveBody]


class ModelBody(BaseModel):
    """The served model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "facetrm"
    hash: str
    template_hash: str
    mode: str
    dtype: str
    max_tokens: int | None
    max_answers: int
    tasks: list[TaskBody]


class ModelList(BaseModel):
    """The served models: there is one."""

    object: str = "list"
    data: list[ModelBody]


class State(BaseModel):
    """Whether the server is alive or ready."""

    status: str
