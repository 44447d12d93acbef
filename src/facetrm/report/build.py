"""``report.html`` of a training run: what was trained, how accurate it is, which objectives count, one pair explained.

A section without data is left out, and one line at the end lists the sections left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facetrm.core.files import write_text
from facetrm.report.charts import Bar, Chart, bars, curves, dumbbell, heat_map, scatter
from facetrm.report.page import PageView, environment, page_view
from facetrm.report.run_report import SYSTEM_TITLES, Accuracy, RouterPart, RunReport, Training
from facetrm.report.whole import heat, listened

_HEROES: Final = frozenset({"gate", "model", "routed"})
_LABELS: Final = {"noisy": "against the labels", "true": "against the true order"}


@dataclass(frozen=True)
class AccuracyView:
    """Pair accuracy against one kind of label.

    Attributes:
        title: Kind of label, in words.
        chart: Bar chart of the systems.
        rows: Key, title and accuracy of each system.
    """

    title: str
    chart: Chart
    rows: tuple[tuple[str, str, Accuracy], ...]


@dataclass(frozen=True)
class ReportView:
    """Everything that the template reads besides the run itself. A chart is None if its section is left out.

    Attributes:
        accuracy: Pair accuracy, one view per kind of label.
        objectives: Chart of each objective's rank correlation with held-out ratings.
        debias: Chart of each objective's correlation with verbosity, before and after debiasing.
        by_task: Chart of how much each objective counts per task.
        by_source: Chart of how much each objective counts per source.
        listened: Chart of how much each objective counts over all answers.
        training: Chart of the gate's loss by step.
        training_accuracy: Chart of the gate's pair accuracy by step.
        recovery: Chart of the learned weights against the true ones.
        pair: The explained pair.
        confusion: Chart of the router's confusion matrix.
        reliability: Chart of the router's accuracy by confidence.
        systems: Systems in the table by source, in order.
        task_systems: Systems in the table by task, in order.
        absent: Names of the sections that are left out.
        tiles: Value and description of each figure at the top.
    """

    accuracy: tuple[AccuracyView, ...]
    objectives: Chart | None
    debias: Chart | None
    by_task: Chart | None
    by_source: Chart | None
    listened: Chart | None
    training: Chart | None
    training_accuracy: Chart | None
    recovery: Chart | None
    pair: PageView | None
    confusion: Chart | None
    reliability: Chart | None
    systems: tuple[str, ...]
    task_systems: tuple[str, ...]
    absent: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...]


def build_report(run: RunReport, folder: Path) -> Path:
    """Write ``report.html`` into ``folder`` and return its path.

    Args:
        run: Content of the report.
        folder: Folder of the run.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    path = folder / "report.html"
    write_text(path, render_report(run))
    return path


def render_report(run: RunReport) -> str:
    """Return the report of a run as HTML.

    Args:
        run: Content of the report.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    template = environment().get_template("report.html.j2")
    return template.render(title=run.title, run=run, view=_view(run), names=SYSTEM_TITLES)


def _view(run: RunReport) -> ReportView:
    overall, pair = run.overall, run.pair
    return ReportView(
        accuracy=tuple(_accuracy(kind, rows) for kind, rows in run.pair_accuracy.items() if rows),
        objectives=_objectives(run),
        debias=_debias(run),
        by_task=None if overall is None else heat("task", overall.by_task),
        by_source=None if overall is None else heat("source", overall.by_source),
        listened=None if overall is None else listened(overall.everyone),
        training=_training(run.training, "loss", lambda p: p.train_loss, lambda p: p.valid_loss),
        training_accuracy=_training(run.training, "accuracy", lambda p: p.train_accuracy, lambda p: p.valid_accuracy),
        recovery=_recovery(run),
        pair=None
        if pair is None
        else page_view(pair.explanation, conversations=pair.conversations or (), flip=pair.flip),
        confusion=None if run.router is None else _confusion(run.router),
        reliability=None if run.router is None else _reliability(run.router),
        systems=_ordered({system for rows in run.by_source.values() for system in rows}),
        task_systems=_ordered({system for rows in run.by_task.values() for system in rows}),
        absent=_absent(run),
        tiles=_tiles(run),
    )


def _ordered(systems: set[str]) -> tuple[str, ...]:
    return (*(name for name in SYSTEM_TITLES if name in systems), *sorted(systems - SYSTEM_TITLES.keys()))


def _accuracy(kind: str, rows: Mapping[str, Accuracy]) -> AccuracyView:
    names = _ordered(set(rows))
    drawn = [Bar(SYSTEM_TITLES.get(n, n), rows[n].value, rows[n].low, rows[n].high, hero=n in _HEROES) for n in names]
    lowest = min(value for row in rows.values() for value in (row.value, row.low) if value is not None)
    floor = max(0.0, min(0.4, lowest - 0.02))
    return AccuracyView(
        title=_LABELS.get(kind, f"against {kind}"),
        chart=bars(drawn, name=f"accuracy:{kind}", percent=True, mark=0.5, floor=floor),
        rows=tuple((n, SYSTEM_TITLES.get(n, n), rows[n]) for n in names),
    )


def _confusion(router: RouterPart) -> Chart:
    shares = [[count / max(sum(row), 1) for count in row] for row in router.confusion]
    return heat_map(
        [f"{name} is routed to" for name in router.names], list(router.names), shares, name="router:confusion"
    )


def _reliability(router: RouterPart) -> Chart | None:
    known = [(b.confidence, b.accuracy) for b in router.reliability if b.confidence is not None]
    if not known:
        return None
    ends = [(min(c for c, _ in known),) * 2, (1.0, 1.0)]
    lines = [("routed correctly", [(c, a) for c, a in known if a is not None]), ("perfect calibration", ends)]
    return curves(
        lines, name="router:reliability", x_label="mean confidence of a bin", y_label="share routed correctly"
    )


def _objectives(run: RunReport) -> Chart | None:
    known = [row for row in run.objectives if row.spearman is not None]
    if not known:
        return None
    drawn = [Bar(row.name, row.spearman or 0.0, row.low, row.high, hero=True) for row in known]
    return bars(drawn, name="objectives")


def _debias(run: RunReport) -> Chart | None:
    if not run.debias:
        return None
    rows = [(row.objective, row.before, row.after) for row in run.debias]
    return dumbbell(rows, name="debias", before="before", after="after")


def _training(
    training: Training | None,
    what: str,
    train: Callable[..., float | None],
    valid: Callable[..., float | None],
) -> Chart | None:
    if training is None:
        return None
    lines = []
    for label, value in (("training", train), ("validation", valid)):
        line = [(float(p.step), v) for p in training.points if (v := value(p)) is not None]
        if line:
            lines.append((label, line))
    if not lines:
        return None
    return curves(lines, name=f"training:{what}", x_label="step", y_label=what, best=training.best_step)


def _recovery(run: RunReport) -> Chart | None:
    if run.recovery is None or not run.recovery.points:
        return None
    points = [(f"{p.task} / {p.objective}", p.true, p.learned) for p in run.recovery.points]
    return scatter(points, name="recovery", x_label="true weight × spread", y_label="learned coefficient × spread")


def _absent(run: RunReport) -> tuple[str, ...]:
    parts = {
        "pair accuracy": run.pair_accuracy,
        "accuracy by source": run.by_source,
        "experts": run.objectives,
        "debiasing": run.debias,
        "length audit": run.length,
        "gate training": run.training,
        "weight recovery": run.recovery,
        "what the model listens to": run.overall,
        "the effect of dropping an expert": run.ablation,
        "one pair explained": run.pair,
        "time": run.seconds,
        "settings": run.config,
    }
    routed = ("experts", "debiasing", "length audit", "gate training", "weight recovery", "accuracy by source")
    known = routed if run.capabilities else ()  # what a routed model has in another form
    return tuple(name for name, value in parts.items() if not value and name not in known)


def _tiles(run: RunReport) -> tuple[tuple[str, str], ...]:
    """Return the value and the description of each figure at the top."""
    tiles = []
    for kind, rows in run.pair_accuracy.items():
        for hero, words in (
            ("gate", "pair accuracy of the gate"),
            ("model", "pair accuracy"),
            ("routed", "pair accuracy, routed"),
        ):
            if hero in rows:
                tiles.append((f"{100 * rows[hero].value:.1f}%", f"{words}, {_LABELS.get(kind, kind)}"))
    if run.router is not None:
        tiles.append(
            (
                f"{100 * run.router.accuracy.value:.1f}%",
                f"of held-out prompts routed correctly, {len(run.router.names)} tasks",
            )
        )
    known = [row.spearman for row in run.objectives if row.spearman is not None]
    if known:
        tiles.append((f"{sum(known) / len(known):.2f}", f"mean Spearman of {len(known)} experts with held-out ratings"))
    if run.debias:
        tiles.append(
            (f"{max(abs(row.after) for row in run.debias):.3f}", "largest remaining |correlation| with verbosity")
        )
    if run.recovery is not None:
        tiles.append((f"{run.recovery.spearman:.2f}", "Spearman of learned and true task weights"))
    if run.seconds:
        tiles.append((f"{sum(run.seconds.values()):,.0f} s", "total time"))
    return tuple(tiles)
