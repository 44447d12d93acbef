"""One answer or one pair as a self-contained HTML page: no external resources, light and dark, any width.

The templates escape all text of users. The only markup that is not escaped is our own SVG. The one script of a page,
whose sliders re-weigh a pair, is named by its hash in the page's security policy, so no other script can run.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from facetrm.core.errors import ModelError
from facetrm.core.files import write_text
from facetrm.core.shown import show_fixed, show_number
from facetrm.data.records import Conversation
from facetrm.explain.before_after import BeforeAfter, before_after
from facetrm.explain.flip import Flip, ScoreFlip, WeightFlip
from facetrm.explain.lines import ExpertLine, RawScale
from facetrm.explain.local import LocalExplanation, PairExplanation
from facetrm.model.validity import Validity
from facetrm.report.charts import Chart, folded, levels_of, waterfall

_TEMPLATES: Final = Path(__file__).parent / "templates"
_STEPS: Final = 8
"""Number of contributions that get a row each in the chart of one answer."""


@dataclass(frozen=True)
class Mark:
    """A rating drawn on the scale of its objective.

    Attributes:
        letter: Letter of the answer, ``A`` or ``B``; empty for a single answer.
        rating: The rating, as text.
        left: Position in percent of the scale, clipped to 0 to 100; None if the scale is unknown.
        beyond: Whether the rating lies outside the scale.
    """

    letter: str
    rating: str
    left: float | None
    beyond: bool


@dataclass(frozen=True)
class ExpertRow:
    """One objective in the table of weights and ratings.

    Attributes:
        objective: Name of the objective.
        scale: Scale of its ratings; None if unknown.
        weights: Gate weight, one per answer if the prompts differ; empty without a gate.
        marks: The rating of each answer, as drawn on the scale.
        cells: Letter of each answer, and the objective's line in its explanation; None if it has none.
        difference: Contribution to A minus contribution to B; None for a single answer.
        share: Share of the absolute contributions or differences, in percent.
        validity: How well it is predicted on held-out rows; None if unknown.
    """

    objective: str
    scale: RawScale | None
    weights: tuple[float, ...]
    marks: tuple[Mark, ...]
    cells: tuple[tuple[str, ExpertLine | None], ...]
    difference: float | None
    share: float
    validity: Validity | None


@dataclass(frozen=True)
class AnswerCard:
    """One answer on the page.

    Attributes:
        letter: ``A`` or ``B``; empty for a single answer.
        explanation: Explanation of the answer.
        text: Text of the answer; None if it was not given.
        chart: Waterfall chart of its contributions, on the axis of all answers of the page.
        label: ``preferred`` or ``rejected`` by the label of the data; empty without a label.
        edited: The answer before and after the edits of the model; None without edits.
    """

    letter: str
    explanation: LocalExplanation
    text: str | None
    chart: Chart
    label: str
    edited: BeforeAfter | None


@dataclass(frozen=True)
class PageView:
    """Everything that the template of one explanation reads.

    Attributes:
        headline: Heading of the explanation.
        facts: Sentences below the heading.
        prompts: The distinct prompts of the answers; empty if no texts were given.
        cards: One card per answer.
        why: Waterfall chart from A to B; None for a single answer.
        rows: One row per objective.
        flip: What would flip the pair; None to leave the section out.
        flip_scores: Changes of one rating that would flip the pair.
        top_weight: Largest gate weight, for the width of the bars.
        by_effect: Weight changes of a pair, the largest part of the margin first, for the sliders; empty without them.
        terms: The terms of the margin, as JSON, for the sliders.
        pair: Whether a pair is shown.
        weighted: Whether the reward is a weighted sum of ratings.
    """

    headline: str
    facts: tuple[str, ...]
    prompts: tuple[Conversation, ...]
    cards: tuple[AnswerCard, ...]
    why: Chart | None
    rows: tuple[ExpertRow, ...]
    flip: Flip | None
    flip_scores: tuple[ScoreFlip, ...]
    top_weight: float
    by_effect: tuple[WeightFlip, ...]
    terms: str
    pair: bool
    weighted: bool


def render_page(
    explanation: LocalExplanation | PairExplanation,
    *,
    conversations: Sequence[Conversation] = (),
    flip: Flip | None = None,
    title: str = "",
) -> str:
    """Return the page as HTML.

    Args:
        explanation: Explanation of one answer, or of a pair.
        conversations: The conversation of the answer, or those of A and B; empty to leave the texts out.
        flip: What would flip the pair; None to leave the section out.
        title: Title of the page; empty for a default title.

    Raises:
        ModelError: The number of conversations is not the number of answers.
        ConfigError: Matplotlib is not installed.
    """
    view = page_view(explanation, conversations=conversations, flip=flip)
    first = view.cards[0].explanation
    title = title or ("Why A or B: one pair explained" if view.pair else "One answer explained")
    template = environment().get_template("page.html.j2")
    script = page_script() if view.by_effect else None
    return template.render(title=title, view=view, first=first, contents=_contents(view), script=script)


def write_page(
    path: Path,
    explanation: LocalExplanation | PairExplanation,
    *,
    conversations: Sequence[Conversation] = (),
    flip: Flip | None = None,
    title: str = "",
) -> Path:
    """Write the HTML page to ``path`` and return the path.

    Args:
        path: Path of the page.
        explanation: Explanation of one answer, or of a pair.
        conversations: The conversation of the answer, or those of A and B; empty to leave the texts out.
        flip: What would flip the pair; None to leave the section out.
        title: Title of the page; empty for a default title.

    Raises:
        ModelError: The number of conversations is not the number of answers.
        ConfigError: Matplotlib is not installed.
    """
    write_text(path, render_page(explanation, conversations=conversations, flip=flip, title=title))
    return path


def page_view(
    explanation: LocalExplanation | PairExplanation,
    *,
    conversations: Sequence[Conversation] = (),
    flip: Flip | None = None,
) -> PageView:
    """Return what the template ``explained.html.j2`` reads.

    Args:
        explanation: Explanation of one answer, or of a pair.
        conversations: The conversation of the answer, or those of A and B; empty to leave the texts out.
        flip: What would flip the pair; None to leave the section out.

    Raises:
        ModelError: The number of conversations is not the number of answers.
        ConfigError: Matplotlib is not installed.
    """
    answers = _answers(explanation)
    preferred = explanation.preferred if isinstance(explanation, PairExplanation) else None
    if conversations and len(conversations) != len(answers):
        raise ModelError(
            f"{len(conversations)} texts for {len(answers)} answers",
            place="page",
            fix="give one conversation per answer",
        )
    ends = _shared_ends([answer for _, answer in answers])
    cards = tuple(
        AnswerCard(
            letter=letter,
            explanation=answer,
            text=conversations[n][-1].content if conversations else None,
            chart=_own_waterfall(answer, f"answer{n}", ends),
            label="" if preferred is None else "preferred" if letter == preferred else "rejected",
            edited=before_after(answer),
        )
        for n, (letter, answer) in enumerate(answers)
    )
    prompts = tuple(dict.fromkeys(tuple(text[:-1]) for text in conversations))
    if isinstance(explanation, LocalExplanation):
        headline = f"Reward {show_fixed(explanation.reward)}"
        facts: tuple[str, ...] = (f"Shares: {explanation.summary(6)}.", *explanation.facts)
        why = None
    else:
        headline, *rest = explanation.facts
        facts = tuple(rest)
        start = None if explanation.same_prompt else ("base", explanation.base_difference)
        steps = [(line.objective, line.difference) for line in explanation.lines]
        why = waterfall(steps, start=start, end=("margin", explanation.margin), name="why", pair=True)
    rows = _rows(explanation)
    return PageView(
        headline=headline,
        facts=facts,
        prompts=prompts,
        cards=cards,
        why=why,
        rows=rows,
        flip=flip,
        flip_scores=() if flip is None else tuple(move for move in flip.scores if move.moves),
        top_weight=max([1e-9, *(weight for row in rows for weight in row.weights)]),
        by_effect=() if flip is None else tuple(sorted(flip.weights, key=lambda one: -abs(one.effect))),
        terms=json.dumps([] if flip is None else [[term.weight, term.score, term.value] for term in flip.terms]),
        pair=isinstance(explanation, PairExplanation),
        weighted=all(answer.weighted for _, answer in answers),
    )


@dataclass(frozen=True)
class PageScript:
    """The script of a page.

    Attributes:
        text: The script, as trusted markup.
        allowed: The source expression that allows it in the page's security policy.
    """

    text: Markup
    allowed: str


@cache
def page_script() -> PageScript:
    """Return the script behind the sliders of a pair."""
    text = (_TEMPLATES / "reweigh.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(text.encode()).digest()).decode()
    return PageScript(Markup(text), f"sha256-{digest}")


@cache
def environment() -> Environment:
    """Return the template environment: all text is escaped, and an undefined name is an error."""
    loader = FileSystemLoader(_TEMPLATES)
    result = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    result.filters["signed"] = lambda value: show_fixed(value, signed=True)
    result.filters["fixed"] = show_fixed
    result.filters["number"] = show_number
    result.filters["percent"] = _percent
    result.filters["maybe"] = _maybe
    return result


def _contents(view: PageView) -> tuple[tuple[str, str], ...]:
    """Return anchor and title of each section, in the order of the page."""
    ratings = "Gate and ratings" if view.weighted else "Ratings"
    answers = (("answers", "Answers"), ("why", "Why")) if view.pair else (("answers", "Answer"),)
    flip = (("flip", "What would flip it"),) if view.pair and (view.flip is not None or not view.weighted) else ()
    edits = (("edited", "Before and after"),) if any(card.edited for card in view.cards) else ()
    return (
        *answers,
        *edits,
        ("contributions", "Contributions"),
        ("ratings", ratings),
        *flip,
        *((("reweigh", "What if it weighed differently?"),) if view.by_effect else ()),
        ("provenance", "Provenance"),
    )


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def _maybe(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(round(value, 9) + 0.0, form)


def _answers(explanation: LocalExplanation | PairExplanation) -> list[tuple[str, LocalExplanation]]:
    if isinstance(explanation, LocalExplanation):
        return [("", explanation)]
    return [("A", explanation.a), ("B", explanation.b)]


def _own_waterfall(answer: LocalExplanation, name: str, ends: tuple[float, float]) -> Chart:
    start, end = ("base", answer.base), ("reward", answer.reward)
    return waterfall(_steps(answer), start=start, end=end, top=_STEPS, name=name, ends=ends)


def _shared_ends(answers: Sequence[LocalExplanation]) -> tuple[float, float]:
    """Return the ends of the one axis on which the contributions of all answers are drawn."""
    levels = [level for a in answers for level in levels_of(folded(_steps(a), _STEPS), a.base)]
    return min(levels), max(levels)


def _steps(answer: LocalExplanation) -> list[tuple[str, float]]:
    return [(line.objective, line.contribution) for line in answer.lines]


def _rows(explanation: LocalExplanation | PairExplanation) -> tuple[ExpertRow, ...]:
    if isinstance(explanation, LocalExplanation):
        return tuple(_row(line.objective, (("", line),), None, line.share) for line in explanation.lines)
    same = explanation.same_prompt
    return tuple(
        _row(line.objective, (("A", line.a), ("B", line.b)), line.difference, line.share, one_weight=same)
        for line in explanation.lines
    )


def _row(
    objective: str,
    sides: tuple[tuple[str, ExpertLine | None], ...],
    difference: float | None,
    share: float,
    *,
    one_weight: bool = True,
) -> ExpertRow:
    lines = [line for _, line in sides if line is not None]
    weights = tuple(line.weight for line in lines if line.weight is not None)
    return ExpertRow(
        objective=objective,
        scale=lines[0].scale,
        weights=weights[:1] if one_weight else weights,
        marks=tuple(_mark(letter, line) for letter, line in sides if line is not None),
        cells=sides,
        difference=difference,
        share=share,
        validity=lines[0].validity,
    )


def _mark(letter: str, line: ExpertLine) -> Mark:
    if line.scale is None:
        return Mark(letter, show_number(line.rating), None, False)
    place = (line.rating - line.scale.low) / (line.scale.high - line.scale.low)
    return Mark(letter, show_number(line.rating), 100.0 * min(1.0, max(0.0, place)), not line.scale.holds(line.rating))
