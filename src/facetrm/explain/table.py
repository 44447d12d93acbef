"""Terminal view of a whole model: contributions and the effect of dropping each objective, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from facetrm.core.clean import clean
from facetrm.core.shown import show_fixed
from facetrm.core.statistics import Interval
from facetrm.explain.ablation import AblationTable
from facetrm.explain.overall import FEW_PROMPTS, OverallExplanation
from facetrm.explain.terminal import shown_validity
from facetrm.model.validity import Validity


@final
@dataclass(frozen=True)
class WholeView:
    """The view of a whole model, for a rich console: mean weights and contributions, and the effect of dropping each.

    Attributes:
        overall: the explanation to show, from :func:`facetrm.explain.overall.explain_overall`.
        effects: the ablation to show, from :func:`facetrm.explain.ablation.ablate`; None if there are no pairs.
        task: task of the mixture; empty if the model has only one mixture.
        edits: the edits of the mixture in words, by objective, from :func:`facetrm.explain.edited.changes_of`.
        validity: how well each objective was predicted on held-out rows, by name; empty if unknown.
    """

    overall: OverallExplanation
    effects: AblationTable | None = None
    task: str = ""
    edits: Mapping[str, str] = field(default_factory=dict)
    validity: Mapping[str, Validity] = field(default_factory=dict)

    @property
    def facts(self) -> tuple[str, ...]:
        """Sentences about the edits, the pairs that one expert decides, and correlations from few prompts."""
        edited = "; ".join(f"{name} {change}" for name, change in self.edits.items())
        said = [f"Edited: {edited}. All figures are those of the edited model."] if edited else []
        decided = self.overall.decided
        if decided is not None:
            said.append(f"{100 * decided.share.value:.0f}% of {decided.pairs} margins are decided by one expert")
        heavy = everyone_share(self.overall, self.validity)
        if heavy:
            said.append(f"Ratings not predicted on held-out prompts: {', '.join(heavy)}.")
        if self.overall.length_interval and self.overall.prompts < FEW_PROMPTS:
            said.append(
                f"The correlations with length rest on {self.overall.prompts} prompts. With fewer than {FEW_PROMPTS}, "
                "the intervals are too narrow."
            )
        return tuple(said)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table and the sentences below it."""
        everyone, of_task = self.overall.everyone, f"{clean(self.task)}: " if self.task else ""
        table = Table(title=Text(f"{of_task}What the model listens to (accounting) and the effect of dropping it"))
        table.add_column("objective", no_wrap=True, min_width=min(40, max(map(len, everyone.contributions))))
        weight = ("mean weight",) if everyone.weights else ()
        for column in (*weight, "mean |contribution|", "corr. with length", "accuracy if dropped"):
            table.add_column(column, justify="right", overflow="fold")
        if self.validity:
            table.add_column("predicted")
        for cells in self._rows():
            table.add_row(*cells)
        yield table
        for fact in self.facts:
            yield Text(clean(fact))

    def _rows(self) -> Iterator[list[str | Text]]:
        everyone = self.overall.everyone
        lines = {} if self.effects is None else {line.objective: line for line in self.effects.lines}
        for name in self.overall.deciders:
            length, line = self.overall.length[name], lines.get(name)
            yield [
                Text(clean(name)),
                *([f"{everyone.weights[name]:.3f}"] if everyone.weights else []),
                show_fixed(everyone.contributions[name]),
                "-" if length is None else _correlation(length, self.overall.length_interval.get(name)),
                "-" if line is None else f"{show_fixed(100 * line.accuracy_change.value, 1, signed=True)} points",
                *([shown_validity(self.validity.get(name))] if self.validity else []),
            ]


def everyone_share(overall: OverallExplanation, validity: Mapping[str, Validity]) -> list[str]:
    """Return the objectives without measurable validity, with what they hold in words.

    Args:
        overall: weights and contributions over all rows.
        validity: how well each objective was predicted on held-out rows, by name.
    """
    size = overall.everyone.weights or overall.everyone.contributions
    total = sum(size.values()) or 1.0
    what = "the weight" if overall.everyone.weights else "the contributions"
    found = [name for name in overall.deciders if name in validity and not validity[name].measurable]
    return [f"{name} ({size[name] / total:.0%} of {what})" for name in found if size[name] > 0.005 * total]


def _correlation(value: float, interval: Interval | None) -> str:
    shown = show_fixed(value, 2, signed=True)
    if interval is None:
        return shown
    return f"{shown} ({show_fixed(interval.low, 2, signed=True)} to {show_fixed(interval.high, 2, signed=True)})"
