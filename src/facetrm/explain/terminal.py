"""Terminal views of the explanation of one answer or one pair, with text bars. Colours are used only on a terminal.

User text is never interpreted. Control characters (an escape sequence could repaint the terminal) and marks that
change the writing direction are shown as U+FFFD, and nothing is read as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final, final

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from facetrm.core.clean import clean
from facetrm.core.shown import show_fixed, show_number
from facetrm.data.records import Conversation
from facetrm.explain.edited_table import edited_part
from facetrm.explain.flip import Flip
from facetrm.explain.lines import ExpertLine
from facetrm.explain.local import LocalExplanation, PairExplanation
from facetrm.model.validity import Validity

_SIDE_BY_SIDE: Final = 100
"""Terminal width, in columns, from which two answers are shown side by side."""


def shorten(text: str, limit: int) -> str:
    """Return ``text``; if it is longer than ``limit`` characters, its middle is replaced by a note of what was cut."""
    if len(text) <= limit:
        return text
    head, tail = 2 * limit // 3, limit // 3
    return f"{text[:head].rstrip()}\n[... {len(text) - head - tail:,} characters ...]\n{text[-tail:].lstrip()}"


@final
@dataclass(frozen=True)
class AnswerView:
    """The view of one answer, for a rich console.

    Attributes:
        explanation: the explanation to show, from :func:`facetrm.explain.ask.explain_local`.
        conversation: the conversation that ends with the answer; None to show no text.
        top: largest number of experts to show.
        characters: largest number of characters of each text; the middle of a longer text is left out.
    """

    explanation: LocalExplanation
    conversation: Conversation | None = None
    top: int = 8
    characters: int = 600

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts from top to bottom."""
        answer = self.explanation
        if self.conversation is not None:
            yield _prompt(self.conversation, self.characters)
            yield _answer("answer", self.conversation, self.characters, "cyan")
        yield Text.assemble(
            ("reward ", "bold"),
            (show_fixed(answer.reward), "bold cyan"),
            f"   base {show_fixed(answer.base)}   {_reading(answer)}",
        )
        yield Text(clean(f"shares  {answer.summary(self.top)}"))
        for fact in answer.facts:
            yield Text(f"- {clean(fact)}")
        values = [(line.objective, line.contribution) for line in answer.lines]
        yield _title("Contributions", "the base plus these is the reward")
        yield _waterfall(values, self.top, options, start=("base", answer.base), end=("reward", answer.reward))
        yield _ratings_title(answer)
        yield _ratings([answer], ("rating",), self.top)
        yield from edited_part([("", answer)], self.top)
        yield _foot(answer)


@final
@dataclass(frozen=True)
class PairView:
    """The view of two answers and why one is ahead, for a rich console.

    Attributes:
        explanation: the explanation to show, from :func:`facetrm.explain.ask.explain_pair`.
        conversations: the conversations that end with answers A and B; None to show no text.
        flip: the changes that would flip the pair, from :func:`facetrm.explain.flip.flip_pair`; None to leave them out.
        top: largest number of experts to show.
        characters: largest number of characters of each text; the middle of a longer text is left out.
    """

    explanation: PairExplanation
    conversations: tuple[Conversation, Conversation] | None = None
    flip: Flip | None = None
    top: int = 8
    characters: int = 600

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts from top to bottom."""
        pair = self.explanation
        if self.conversations is not None:
            yield from self._texts(self.conversations, options)
        for name, answer, style in (("A", pair.a, "cyan"), ("B", pair.b, "magenta")):
            yield Text.assemble(
                (f"{name}  reward ", "bold"),
                (show_fixed(answer.reward), f"bold {style}"),
                f"   base {show_fixed(answer.base)}   {_reading(answer)}",
            )
        for fact in pair.facts:
            yield Text(f"- {clean(fact)}")
        values = [(line.objective, line.difference) for line in pair.lines]
        start = None if pair.same_prompt else ("base", pair.base_difference)
        yield _title("Why", "contribution to A minus contribution to B; they sum to the margin")
        yield _waterfall(values, self.top, options, start=start, end=("margin", pair.margin))
        yield _ratings_title(pair.a)
        yield _ratings([pair.a, pair.b], ("A", "B"), self.top)
        yield from edited_part([("A", pair.a), ("B", pair.b)], self.top)
        if not (pair.a.weighted and pair.b.weighted):
            yield _title("What would flip it", "not defined: the reward is not a weighted sum of ratings")
        if self.flip is not None:
            yield _title("What would flip it", "one change at a time, everything else held fixed")
            for fact in self.flip.facts:
                yield Text(f"- {clean(fact)}")
        yield _foot(pair.a)

    def _texts(self, pair: tuple[Conversation, Conversation], options: ConsoleOptions) -> Iterator[RenderableType]:
        one_prompt = pair[0][:-1] == pair[1][:-1]
        if one_prompt:
            yield _prompt(pair[0], self.characters)
        panels = [
            _answer(name, text, self.characters, style, whole=not one_prompt)
            for name, text, style in (("A", pair[0], "cyan"), ("B", pair[1], "magenta"))
        ]
        if options.max_width < _SIDE_BY_SIDE:
            yield from panels
            return
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*panels)
        yield grid


def show(view: AnswerView | PairView, *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print a view, with colours only on a terminal.

    Args:
        view: the view to print.
        file: the stream to print to; None for standard output.
        width: width in columns; None for the width of the terminal, or 80 if there is no terminal.
    """
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(view)


def _title(title: str, note: str) -> RenderableType:
    return Text.assemble("\n", (title, "bold"), (f"  {note}", "dim"))


def _ratings_title(answer: LocalExplanation) -> RenderableType:
    if answer.weighted:
        return _title("Gate and ratings", "the gate's weights and each expert's rating")
    return _title("Ratings", "each expert's own rating, and its contribution to the reward of the network")


def _reading(answer: LocalExplanation) -> str:
    cut = "   TRUNCATED" if answer.truncated else ""
    return f"answer {answer.length:,} of {answer.tokens:,} tokens{cut}"


def _foot(answer: LocalExplanation) -> RenderableType:
    task = "" if answer.routing is None else f"{clean(answer.routing)}   "
    note = f"{task}model {answer.model[:12]}   template {answer.template[:12]}"
    return Text(f"\n{note}", style="dim")


def _turns(messages: Conversation, characters: int) -> Text:
    return Text("\n").join(
        Text.assemble((f"{m.role}: ", "dim"), clean(shorten(m.content, characters))) for m in messages
    )


def _prompt(messages: Conversation, characters: int) -> RenderableType:
    return Panel(_turns(messages[:-1], characters), title="prompt", title_align="left", box=box.ROUNDED, style="")


def _answer(name: str, messages: Conversation, characters: int, style: str, *, whole: bool = False) -> RenderableType:
    text = _turns(messages, characters) if whole else Text(clean(shorten(messages[-1].content, characters)))
    return Panel(text, title=name, title_align="left", box=box.ROUNDED, border_style=style)


def _waterfall(
    values: Sequence[tuple[str, float]],
    top: int,
    options: ConsoleOptions,
    *,
    start: tuple[str, float] | None,
    end: tuple[str, float],
) -> RenderableType:
    """Return one bar per value, each starting where the last one ended. Values after the first ``top`` share a row."""
    rows = list(values[:top])
    if len(values) > top:
        rows.append((f"{len(values) - top} others", sum(value for _, value in values[top:])))
    begin = 0.0 if start is None else start[1]
    levels = [begin]
    for _, value in rows:
        levels.append(levels[-1] + value)
    # A large base would make the steps too small to see, so the bars of a reward start at the base and not at zero.
    floor = begin if end[0] == "reward" else 0.0
    low, high = min(floor, *levels), max(floor, *levels)
    names = max(len(name) for name, _ in [*rows, end])
    names = min(names, max(12, options.max_width // 3))
    width = max(10, min(60, options.max_width - names - 12))
    table = Table.grid(padding=(0, 1))
    table.add_column(width=names, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", width=9)
    table.add_column(no_wrap=True)
    if start is not None:
        bar = _bar(floor, begin, low, high, width, options, "dim")
        table.add_row(Text(start[0], style="dim"), Text(show_fixed(start[1], signed=True), style="dim"), bar)
    for (name, value), level in zip(rows, levels, strict=False):
        style = "green" if value >= 0 else "red"
        bar = _bar(level, level + value, low, high, width, options, style)
        table.add_row(Text(clean(name)), Text(show_fixed(value, signed=True), style=style), bar)
    total = _bar(floor, levels[-1], low, high, width, options, "bold")
    table.add_row(Text(end[0], style="bold"), Text(show_fixed(end[1], signed=True), style="bold"), total)
    return table


def _bar(a: float, b: float, low: float, high: float, width: int, options: ConsoleOptions, style: str) -> Text:
    span = (high - low) or 1.0
    left, right = sorted((round((a - low) / span * width), round((b - low) / span * width)))
    block, point = ("#", "|") if options.ascii_only else ("█", "▏")
    text = block * (right - left) if right > left else point
    return Text(" " * left + text, style=style)


def _ratings(answers: Sequence[LocalExplanation], titles: Sequence[str], top: int) -> RenderableType:
    """Return the table of objectives, sorted by gate weight, then contribution, with one rating column per answer."""
    first = answers[0]
    lines = sorted(first.lines, key=lambda line: (-(line.weight or 0.0), -abs(line.contribution), line.objective))[:top]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("objective", no_wrap=True, overflow="ellipsis")
    adds = ("contribution",) if len(titles) == 1 else tuple(f"{title} gets" for title in titles)
    for title in ("weight", "coefficient") if first.weighted else adds:
        table.add_column(title, justify="right")
    for title in titles:
        table.add_column(title, justify="right")
    scaled = any(line.scale is not None for line in lines)
    if scaled:
        table.add_column("scale")
    checked = any(line.validity is not None for line in lines)
    if checked:
        table.add_column("predicted")
    for line in lines:
        others = [{other.objective: other for other in answer.lines}.get(line.objective) for answer in answers]
        ratings = [Text("-" if other is None else show_number(other.rating)) for other in others]
        if line.weight is None or line.coefficient is None:
            cells = [Text("-" if other is None else show_fixed(other.contribution, signed=True)) for other in others]
        else:
            cells = [Text(f"{line.weight:.1%}"), Text(show_fixed(line.coefficient, signed=True))]
        scale = [Text(_scale(line))] if scaled else []
        known = [Text(shown_validity(line.validity))] if checked else []
        table.add_row(Text(clean(line.objective)), *cells, *ratings, *scale, *known)
    return table


def shown_validity(validity: Validity | None) -> str:
    """Return how well an objective is predicted on held-out rows, in one word or number.

    Args:
        validity: the figure; None if unknown.
    """
    if validity is None:
        return "-"
    return f"{validity.value:.2f}" if validity.measurable and validity.value is not None else "NO"


def _scale(line: ExpertLine) -> str:
    _, _, ends = line.reading.partition(" of ")
    return ends or "unknown"
