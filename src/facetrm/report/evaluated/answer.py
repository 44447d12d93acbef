"""The answer of the report, in sentences: which model is ahead on what, and how sure that is."""

from __future__ import annotations

from facetrm.evaluate.benchmarks.result import SAME_AS, other_baselines
from facetrm.report.evaluated.content import EvaluationReport
from facetrm.report.evaluated.measured import BenchmarkPart, MeasuredFigure, RatedPart


def leaders(part: BenchmarkPart) -> list[str]:
    """Return the models of a benchmark by their totals, the best first. Baselines lead only among themselves.

    Args:
        part: Models on one benchmark.
    """
    known = {model: total.value for model in part.models if (total := part.total(model)) is not None}
    trained = [model for model in known if model not in part.plain]
    return sorted(trained or known, key=lambda model: -known[model])


def answer_sentences(report: EvaluationReport) -> list[str]:
    """Return one sentence per benchmark, file of ratings, audit and run.

    Args:
        report: Content of the report.
    """
    said = [_sentence(part) for part in report.benchmarks]
    said += [_on_ratings(part) for part in report.rated]
    plain = {name for name, about in report.models.items() if about.get("kind") == "baseline"}
    audits = [one for one in report.audits if one.model not in plain] or report.audits
    said += [one.sentence for one in audits]
    return [*said, *(f"{run.name}: {run.statement}" for run in report.runs if run.statement)]


def percent(value: float) -> str:
    """Return a share in percent, such as ``79.2%``.

    Args:
        value: The share.
    """
    return f"{100 * value:.1f}%"


def _sentence(part: BenchmarkPart) -> str:
    order = leaders(part)
    if not order:
        return f"{part.title}: no model has a total."
    best = order[0]
    total = part.total(best)
    assert total is not None
    score = f"{percent(total.value)} ({percent(total.low)} to {percent(total.high)})"
    against = _against_baselines(part, best)
    if len(order) == 1:
        return f"{best} on {part.name}: {score}, {against}."
    second = order[1]
    found = part.difference(best, second)
    assert found is not None
    gap, paired = found
    how = "" if paired else ", a wide bound, as the two were not resampled together"
    points = f"{100 * gap.value:.1f} points ({100 * gap.low:.1f} to {100 * gap.high:.1f}{how})"
    if gap.sign > 0:
        return f"{best} is ahead of {second} on {part.name} by {points}: {score}, {against}."
    return f"{best} and {second} are level on {part.name}, {points} apart; {best} has {score}, {against}."


def _on_ratings(part: RatedPart) -> str:
    known = part.means
    if not known:
        return f"{part.name}: no objective has enough rated rows."
    order = sorted(known, key=lambda model: -known[model].value)
    rest = "".join(f"; {model} {signed(known[model])}" for model in order[1:3])
    count = len(part.figures)
    over = "the only objective" if count == 1 else f"{count} objectives on average"
    return (
        f"{order[0]} agrees most with the ratings of {part.name}: Spearman {signed(known[order[0]])} for {over}{rest}."
    )


def _against_baselines(part: BenchmarkPart, model: str) -> str:
    """Return how a model stands against chance, and against the better of the longest and the shortest answer."""
    own = SAME_AS.get(model) if model in part.plain else model
    lengths = [name for name in ("longest", "shortest") if part.total(name) is not None and name != own]
    rivals = [max(lengths, key=lambda name: _value(part.total(name)))] if lengths else []
    rivals += ["chance"] if part.total("chance") is not None and model != "chance" else []
    said = []
    for rival in rivals:
        gap, other = part.difference(model, rival), part.total(rival)
        if gap is not None and other is not None:
            word = {1: "above", 0: "not clearly different from", -1: "below"}[gap[0].sign]
            said.append(f"{word} {rival} ({percent(other.value)})")
    return " and ".join(said) or "without a baseline"


def _value(figure: MeasuredFigure | None) -> float:
    return float("-inf") if figure is None else figure.value


def signed(one: MeasuredFigure | None) -> str:
    """Return a figure with its interval, such as ``+0.31 (+0.20 to +0.42)``.

    Args:
        one: The figure; None for a dash.
    """
    return "–" if one is None else f"{one.value:+.2f} ({one.low:+.2f} to {one.high:+.2f})"


def systems_of(part: BenchmarkPart) -> list[str]:
    """Return models, the best first, and then the baselines that are no model.

    Args:
        part: Models on one benchmark.
    """
    order = leaders(part)
    rest = sorted((model for model in part.models if model not in order), key=lambda m: -_value(part.total(m)))
    found = [name for name in other_baselines(part.plain) if name not in part.models and part.total(name) is not None]
    return [*order, *rest, *found]
