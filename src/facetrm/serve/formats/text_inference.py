"""``POST /predict`` of Text Embeddings Inference: a text, a pair, or a batch of them.

Read in its source of July 2026: a string is one text, a list of two strings is a pair, and a list of lists is a batch;
the answer to a batch is a list of lists. A pair is a prompt and its answer here. ``raw_scores: false`` gives the
sigmoid, as there; without the field the reward is raw, where that server applies a sigmoid.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from facetrm.data.records import Conversation
from facetrm.serve.formats.reading import LooseBody, activated, joined_conversations, rendered_conversations
from facetrm.serve.schema.asked import ANSWERS_EXAMPLE, PROMPT_EXAMPLE
from facetrm.serve.served import REFUSED, score_all

text_inference_router: Final = APIRouter(tags=["formats of other servers"])

OneOrPair = Annotated[list[str], Field(min_length=1, max_length=2)]


class PredictRequest(LooseBody):
    """Texts rendered with the model's template, or pairs of a prompt and its answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": [PROMPT_EXAMPLE, ANSWERS_EXAMPLE[0]]}]})

    inputs: str | OneOrPair | Annotated[list[OneOrPair], Field(min_length=1)]
    raw_scores: bool | None = Field(default=None, description="false: the sigmoid of the reward.")
    truncate: bool | None = None

    @model_validator(mode="after")
    def _as_it_stands(self) -> PredictRequest:
        if self.truncate:
            raise ValueError("truncation is set when the server starts: leave truncate out")
        return self


class Prediction(BaseModel):
    """The reward of one input."""

    score: float
    label: str = "LABEL_0"


@text_inference_router.post("/predict", responses=REFUSED)
async def predict_inputs(body: PredictRequest, request: Request) -> list[Prediction] | list[list[Prediction]]:
    """Give rewards as Text Embeddings Inference's `/predict` does, raw unless `raw_scores` is false."""
    given, batch = body.inputs, False
    if isinstance(given, str):
        rows = [[given]]
    elif isinstance(given[0], str):
        rows = [[text for text in given if isinstance(text, str)]]
    else:
        rows, batch = [row for row in given if isinstance(row, list)], True
    scores = await score_all(request, await _conversations(request, rows))
    found = [Prediction(score=activated(score.reward, sigmoid=body.raw_scores is False)) for score in scores]
    return [[one] for one in found] if batch else found


async def _conversations(request: Request, rows: list[list[str]]) -> list[Conversation]:
    """Return the conversations of texts and pairs, in order."""
    single = [n for n, row in enumerate(rows) if len(row) == 1]
    double = [n for n, row in enumerate(rows) if len(row) == 2]
    found = (
        dict(zip(single, await rendered_conversations(request, [rows[n][0] for n in single]), strict=True))
        if (single)
        else {}
    )
    pairs = await joined_conversations(request, [(rows[n][0], rows[n][1]) for n in double])
    found |= dict(zip(double, pairs, strict=True))
    return [found[n] for n in range(len(rows))]
