"""Explain one answer or one pair: how much each expert adds to the reward.

    reward      = base + sum_k contribution_k
    share_k     = 100 |contribution_k| / sum_j |contribution_j|                          percent, sums to 100
    margin(A,B) = (base_A - base_B) + sum_k (contribution_k(A) - contribution_k(B))

Two answers to the same prompt have the same base, so the differences of their contributions sum to the margin. (For a
network on the experts' vectors, the base is a constant for all prompts.) A contribution is accounting: it says what the
expert added to the reward, not what the reward would be without it (see :mod:`facetrm.explain.ablation`).

Reference: ArmoRM (arXiv 2406.12845), section 4, reads single coefficients in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from facetrm.core.errors import ModelError
from facetrm.core.html import html_table
from facetrm.core.shown import show_fixed
from facetrm.data.objectives import Objective
from facetrm.explain.edited import EditedObjective
from facetrm.explain.lines import ExpertLine, RawScale
from facetrm.explain.sentences import answer_facts, pair_facts
from facetrm.model.output import Score
from facetrm.model.validity import Validity

Preferred = Literal["A", "B"] | None
_SAME = 1e-5
"""Relative tolerance within which equal bases and coefficients mean the same prompt (float32, different batches)."""


@dataclass(frozen=True)
class LocalExplanation:
    """The reward of one answer as a sum over experts.

    Attributes:
        reward: reward of the answer.
        base: reward of a reference answer to the same prompt.
        lines: one line per expert, largest absolute contribution first.
        task: task of the mixture that scored the answer.
        routed: task that the router chose.
        confidence: probability of the router's choice, 0 to 1.
        tokens: number of tokens of the whole conversation.
        length: number of tokens of the answer.
        truncated: whether the conversation was truncated before it was scored.
        model: fingerprint of the model.
        template: fingerprint of the chat template.
        edits: edited objectives of the mixture, before and after; empty without edits.
        before: explanation by the model without the edits; None without edits.
    """

    reward: float
    base: float
    lines: tuple[ExpertLine, ...]
    task: str
    routed: str
    confidence: float
    tokens: int
    length: int
    truncated: bool
    model: str
    template: str
    edits: tuple[EditedObjective, ...] = ()
    before: LocalExplanation | None = None

    @property
    def unedited(self) -> float | None:
        """Reward without the edits; None without edits."""
        return None if self.before is None else self.before.reward

    @property
    def facts(self) -> tuple[str, ...]:
        """Sentences about edits and objectives without measurable validity; none if there is nothing to say."""
        return answer_facts(self)

    @property
    def weighted(self) -> bool:
        """Whether the reward is a weighted sum of ratings, so that every line has a weight and a coefficient."""
        return all(line.coefficient is not None for line in self.lines)

    @property
    def routing(self) -> str | None:
        """The task that scored the answer and the confidence of the router; None if there is only one task."""
        if self.routed != self.task:
            chosen = f"{self.routed} with only {self.confidence:.0%} confidence"
            return f"task {self.task} (fallback: the router chose {chosen})"
        return None if self.task == "all" else f"task {self.task} (router confidence {self.confidence:.0%})"

    def line(self, objective: str) -> ExpertLine:
        """Return the line of ``objective``; raise KeyError if there is none."""
        return {line.objective: line for line in self.lines}[objective]

    def summary(self, top: int = 3) -> str:
        """Return the ``top`` largest shares as text, such as ``length 60%, helpfulness 40%``."""
        return ", ".join(f"{line.objective} {line.share:.0f}%" for line in self.lines[:top])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict that includes ``facts``."""
        return asdict(self) | {"unedited": self.unedited, "facts": list(self.facts)}

    def _repr_html_(self) -> str:
        """Return what a notebook shows, all text escaped."""
        rows = [
            [line.objective, show_fixed(line.contribution, signed=True), f"{line.share:.0f}%", line.reading]
            for line in self.lines
        ]
        caption = f"reward {show_fixed(self.reward)} = base {show_fixed(self.base)} + contributions"
        return html_table(caption, ["objective", "contribution", "share", "rating"], rows, notes=self.facts)


_ROUNDING: Final = 1e-5  # percent of all differences: about one float32 rounding of a score


@dataclass(frozen=True)
class PairLine:
    """The contributions of one expert to answers A and B.

    Attributes:
        objective: name of the expert.
        difference: contribution to A minus contribution to B; a positive difference favours A.
        share: absolute difference in percent of the sum of absolute differences.
        a: line of the expert for answer A; None if the mixture that scored A does not have the expert.
        b: line of the expert for answer B; None if the mixture that scored B does not have the expert.
    """

    objective: str
    difference: float
    share: float
    a: ExpertLine | None
    b: ExpertLine | None

    @property
    def favours(self) -> str:
        """``A``, ``B`` or ``neither``, also for a difference that is nothing but rounding beside the others."""
        return "neither" if self.share < _ROUNDING else "A" if self.difference > 0 else "B"


@dataclass(frozen=True)
class PairExplanation:
    """Why one answer is ahead of another: ``margin = base_difference + sum of differences``.

    Attributes:
        a: explanation of answer A.
        b: explanation of answer B.
        margin: reward of A minus reward of B.
        base_difference: base of A minus base of B; exactly 0 if both answer the same prompt.
        same_prompt: whether both answer the same prompt. If neither base nor coefficients depend on the prompt and the
            caller did not say, this is true; the differences then sum to the margin for any two prompts.
        lines: one line per expert, largest absolute difference first.
        beta: factor of the Bradley-Terry fit; None if unknown.
        probability: P(A > B) = sigmoid(beta margin), 0 to 1; None without ``beta``.
        preferred: the answer that the label of the data prefers, ``A`` or ``B``; None without a label.
    """

    a: LocalExplanation
    b: LocalExplanation
    margin: float
    base_difference: float
    same_prompt: bool
    lines: tuple[PairLine, ...]
    beta: float | None
    probability: float | None
    preferred: Preferred = None

    @property
    def winner(self) -> str:
        """``A``, ``B`` or ``neither``."""
        return "neither" if self.margin == 0 else "A" if self.margin > 0 else "B"

    @property
    def decided_by(self) -> str | None:
        """The expert whose |difference| is more than half of all |differences|; None if there is none."""
        return self.lines[0].objective if self.lines and self.lines[0].share > 50.0 else None

    @property
    def facts(self) -> tuple[str, ...]:
        """Sentences about which answer is ahead, which objectives favour each answer, and which one decides."""
        return pair_facts(self)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict that includes ``winner``, ``favours``, ``decided_by`` and ``facts``."""
        value = asdict(self) | {"a": self.a.to_dict(), "b": self.b.to_dict()}
        for line, out in zip(self.lines, value["lines"], strict=True):
            out["favours"] = line.favours
        return value | {"winner": self.winner, "decided_by": self.decided_by, "facts": list(self.facts)}

    def _repr_html_(self) -> str:
        """Return what a notebook shows, all text escaped."""
        rows = [
            [
                line.objective,
                show_fixed(line.difference, signed=True),
                f"{line.share:.0f}%",
                *("-" if side is None else side.reading for side in (line.a, line.b)),
            ]
            for line in self.lines
        ]
        caption = f"A {show_fixed(self.a.reward)}, B {show_fixed(self.b.reward)}"
        return html_table(caption, ["objective", "A - B", "share", "A", "B"], rows, notes=self.facts)


def explain_score(
    score: Score, *, objectives: Sequence[Objective] = (), validity: Mapping[str, Validity] | None = None
) -> LocalExplanation:
    """Explain the score of one answer: contributions by size, shares in percent, ratings on the scale of each source.

    Args:
        score: score of the answer, from :meth:`facetrm.model.reward_model.RewardModel.score`.
        objectives: objectives of the model, which hold the scales; an expert that is not among them has no scale.
        validity: how well each objective was predicted on held-out rows, by name; None if unknown.

    Returns:
        The explanation. If every contribution is 0, every share is 0.

    Raises:
        ModelError: the reward is not finite, or it is not the base plus the contributions.

    Example:
        >>> from facetrm import World, explain_score, toy_model
        >>> score = toy_model().score([next(World().preferences(1)).chosen])[0]
        >>> [line.objective for line in explain_score(score).lines if line.objective == "honest"]
        ['honest']
    """
    _check(score)
    scales = {objective.name: RawScale.of(objective) for objective in objectives}
    shares = _shares(score.contributions)
    lines = [
        ExpertLine(
            objective=name,
            position=position,
            contribution=contribution,
            share=shares[name],
            score=score.scores[name],
            rating=score.ratings.get(name, score.scores[name]),
            scale=scales.get(name),
            weight=score.weights.get(name, 0.0) if score.weights else None,
            coefficient=score.coefficients[name] if score.coefficients else None,
            validity=(validity or {}).get(name),
        )
        for position, (name, contribution) in enumerate(score.contributions.items())
    ]
    return LocalExplanation(
        reward=score.reward,
        base=score.base,
        lines=tuple(sorted(lines, key=lambda line: (-abs(line.contribution), line.objective))),
        task=score.task,
        routed=score.routed,
        confidence=score.confidence,
        tokens=score.tokens,
        length=score.length,
        truncated=score.truncated,
        model=score.model,
        template=score.template,
    )


def explain_scores_pair(
    score_a: Score,
    score_b: Score,
    *,
    objectives: Sequence[Objective] = (),
    same_prompt: bool | None = None,
    beta: float | None = None,
    preferred: Preferred = None,
    validity: Mapping[str, Validity] | None = None,
) -> PairExplanation:
    """Explain why one answer is ahead of another: ``margin = base_A - base_B + sum_k difference_k``.

    Args:
        score_a: score of answer A.
        score_b: score of answer B, from the same model.
        objectives: objectives of the model, which hold the scales.
        same_prompt: whether both answer the same prompt. None infers it from bases and coefficients, which depend only
            on the prompt. A network on vectors has the same base for all prompts, so pass the value there.
        beta: factor of the Bradley-Terry fit, for ``P(A > B) = sigmoid(beta margin)``; None for no probability.
        preferred: the answer that the label of the data prefers, ``A`` or ``B``; None without a label.
        validity: how well each objective was predicted on held-out rows, by name; None if unknown.

    Returns:
        The explanation. For one prompt, ``base_difference`` is exactly 0 and the differences sum to the margin.

    Raises:
        ModelError: scores of different models or templates, ``same_prompt`` for scores that cannot be of one prompt, or
            a reward that is not finite or not the base plus the contributions.

    Example:
        >>> from facetrm import World, explain_scores_pair, toy_model
        >>> pair = next(World().preferences(1))
        >>> explained = explain_scores_pair(*toy_model().score([pair.chosen, pair.rejected]))
        >>> abs(explained.margin - sum(line.difference for line in explained.lines)) < 1e-4
        True
    """
    for what, one, other in (
        ("models", score_a.model, score_b.model),
        ("templates", score_a.template, score_b.template),
    ):
        if one != other:
            raise ModelError(
                f"the two scores come from different {what} ('{one[:12]}', '{other[:12]}')",
                place="explain_scores_pair",
                fix="score both answers with one model",
            )
    if same_prompt is None:
        same_prompt = _one_prompt(score_a, score_b)
    elif same_prompt and not _one_prompt(score_a, score_b):
        raise ModelError(
            f"the bases ({score_a.base:g}, {score_b.base:g}) or coefficients of the two answers differ",
            place="explain_scores_pair",
            fix="they do not answer the same prompt; remove same_prompt",
        )
    a, b = (explain_score(score, objectives=objectives, validity=validity) for score in (score_a, score_b))
    lines_a, lines_b = ({line.objective: line for line in side.lines} for side in (a, b))
    difference = {
        name: score_a.contributions.get(name, 0.0) - score_b.contributions.get(name, 0.0)
        for name in {**lines_a, **lines_b}
    }
    shares = _shares(difference)
    lines = [
        PairLine(name, value, shares[name], lines_a.get(name), lines_b.get(name)) for name, value in difference.items()
    ]
    margin = score_a.reward - score_b.reward
    return PairExplanation(
        a=a,
        b=b,
        margin=margin,
        base_difference=0.0 if same_prompt else score_a.base - score_b.base,
        same_prompt=same_prompt,
        lines=tuple(sorted(lines, key=lambda line: (-abs(line.difference), line.objective))),
        beta=beta,
        probability=None if beta is None else 0.5 * (1.0 + math.tanh(0.5 * beta * margin)),
        preferred=preferred,
    )


def _check(score: Score) -> None:
    total = score.base + sum(score.contributions.values())
    if not math.isfinite(score.reward) or not math.isfinite(total):
        raise ModelError(
            f"the reward is {score.reward}", place="explain", fix="check the model: its scores must be finite"
        )
    scale = max(1.0, abs(score.reward), sum(abs(value) for value in score.contributions.values()))
    if abs(score.reward - total) > 1e-4 * scale:
        raise ModelError(
            f"reward {score.reward:g} is not base plus contributions ({total:g})",
            place="explain",
            fix="pass the score as the model returned it",
        )


def _shares(values: Mapping[str, float]) -> dict[str, float]:
    total = sum(abs(value) for value in values.values())
    return {name: 100.0 * abs(value) / total if total else 0.0 for name, value in values.items()}


def _one_prompt(a: Score, b: Score) -> bool:
    if a.task != b.task or a.coefficients.keys() != b.coefficients.keys():
        return False
    size = max([1e-3, abs(a.base), *(abs(value) for value in a.coefficients.values())])
    gaps = [abs(a.coefficients[name] - b.coefficients[name]) for name in a.coefficients]
    return max([abs(a.base - b.base), *gaps]) <= _SAME * size
