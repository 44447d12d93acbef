"""``report.html`` of a training run: verdict, model and data first, then what it gets wrong, and why.

A section without data is left out, and one line at the end lists the sections left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facetrm.core.files import write_text
from facetrm.report.axes import Axis
from facetrm.report.charts import Chart, curves, scatter
from facetrm.report.heard import Heard, heard
from facetrm.report.page import PageView, environment, page_view
from facetrm.report.run_report import SYSTEM_TITLES, ObjectiveRow, RunReport, Training
from facetrm.report.task_parts import Accuracy, RouterPart

_HEROES: Final = frozenset({"gate", "model", "routed"})
_LABELS: Final = {"noisy": "against the labels", "true": "against the true order"}


@dataclass(frozen=True)
class SystemRow:
    """Pair accuracy of one system.

    Attributes:
        title: Name of the system, in words.
        hero: Whether it is the run's own model.
        cells: Accuracy against each kind of label; None if it was not measured.
    """

    title: str
    hero: bool
    cells: tuple[Accuracy | None, ...]


@dataclass(frozen=True)
class ReportView:
    """Everything that the template reads besides the run itself. A part is None or empty if its section is left out.

    Attributes:
        kinds: Kinds of labels in the table of accuracies, in words.
        accuracy: Pair accuracy of each system.
        chance: Axis of all accuracies, with chance as the origin.
        spearman: Axis of all rank correlations with held-out ratings.
        objectives: Figures of each expert, by what it decides.
        verbosity: Axis of the correlations with verbosity.
        heard: How much each objective counts.
        training: Chart of the gate's loss by step.
        training_accuracy: Chart of the gate's pair accuracy by step.
        recovery: Chart of the learned weights against the true ones.
        pair: The explained pair.
        reliability: Chart of the router's accuracy by confidence.
        systems: Systems in the table by source, in order.
        task_systems: Systems in the table by task, in order.
        contents: Anchor and title of each section.
        absent: Names of the sections that are left out.
        tiles: Value and description of each figure at the top.
    """

    kinds: tuple[str, ...]
    accuracy: tuple[SystemRow, ...]
    chance: Axis
    spearman: Axis
    objectives: tuple[ObjectiveRow, ...]
    verbosity: Axis
    heard: Heard | None
    training: Chart | None
    training_accuracy: Chart | None
    recovery: Chart | None
    pair: PageView | None
    reliability: Chart | None
    systems: tuple[str, ...]
    task_systems: tuple[str, ...]
    contents: tuple[tuple[str, str], ...]
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
    view = _view(run)
    return template.render(title=run.title, run=run, view=view, names=SYSTEM_TITLES, contents=view.contents)


def _view(run: RunReport) -> ReportView:
    pair = run.pair
    tables = {kind: rows for kind, rows in run.pair_accuracy.items() if rows}
    measured = [
        a for part in (run.pair_accuracy, run.by_source, run.by_task) for rows in part.values() for a in rows.values()
    ]
    order = _deciders(run)
    objectives = tuple(sorted(run.objectives, key=lambda row: order.get(row.name, len(order))))
    return ReportView(
        kinds=tuple(_LABELS.get(kind, f"against {kind}") for kind in tables),
        accuracy=tuple(
            SystemRow(SYSTEM_TITLES.get(name, name), name in _HEROES, tuple(rows.get(name) for rows in tables.values()))
            for name in _ordered({system for rows in tables.values() for system in rows})
        ),
        chance=Axis.of_accuracy(measured),
        spearman=Axis.over(x for row in objectives for x in (row.spearman, row.low, row.high)),
        objectives=objectives,
        verbosity=Axis.over(x for row in run.debias for x in (row.before, row.after)),
        heard=None if run.overall is None else heard(run.overall, validity={row.name: row for row in run.objectives}),
        training=_training(run.training, "loss", lambda p: p.train_loss, lambda p: p.valid_loss),
        training_accuracy=_training(run.training, "accuracy", lambda p: p.train_accuracy, lambda p: p.valid_accuracy),
        recovery=_recovery(run),
        pair=None
        if pair is None
        else page_view(pair.explanation, conversations=pair.conversations or (), flip=pair.flip),
        reliability=None if run.router is None else _reliability(run.router),
        systems=_ordered({system for rows in _sources(run).values() for system in rows}),
        task_systems=_ordered({system for rows in run.by_task.values() for system in rows}),
        contents=_contents(run),
        absent=_absent(run),
        tiles=_tiles(run),
    )


def _sources(run: RunReport) -> Mapping[str, Mapping[str, Accuracy]]:
    """Return the accuracies by source; nothing for a single source, whose accuracies are those of all pairs."""
    return run.by_source if len(run.by_source.keys() - {"macro"}) > 1 else {}


def _deciders(run: RunReport) -> dict[str, int]:
    """Return the place of each objective in the order of what it decides; empty if that is unknown."""
    return {} if run.overall is None else {name: n for n, name in enumerate(run.overall.deciders)}


def _ordered(systems: set[str]) -> tuple[str, ...]:
    return (*(name for name in SYSTEM_TITLES if name in systems), *sorted(systems - SYSTEM_TITLES.keys()))


def _reliability(router: RouterPart) -> Chart | None:
    known = [(b.confidence, b.accuracy) for b in router.reliability if b.confidence is not None]
    if not known:
        return None
    ends = [(min(c for c, _ in known),) * 2, (1.0, 1.0)]
    lines = [("routed correctly", [(c, a) for c, a in known if a is not None]), ("perfect calibration", ends)]
    return curves(
        lines, name="router:reliability", x_label="mean confidence of a bin", y_label="share routed correctly"
    )


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


def _contents(run: RunReport) -> tuple[tuple[str, str], ...]:
    """Return anchor and title of each section, in the order of the page."""
    parts: Mapping[str, tuple[str, object]] = {
        "answer": ("The answer", True),
        "sources": ("By source", _sources(run)),
        "tasks": ("By task", run.by_task),
        "overall": ("What decides", run.overall),
        "pair": ("One pair explained", run.pair),
        "errors": ("Errors and ties", run.errors or run.ties),
        "effect": ("Effect of dropping", run.ablation),
        "experts": ("The experts", run.objectives),
        "capabilities": ("Capabilities", run.capabilities),
        "router": ("The router", run.router),
        "layers": ("Layers", run.layers),
        "debiasing": ("Debiasing", run.debias or run.length),
        "training": ("Gate training", run.training),
        "recovery": ("Weight recovery", run.recovery),
        "run": ("The run", True),
    }
    return tuple((anchor, title) for anchor, (title, there) in parts.items() if there)


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
        "errors and ties": run.errors or run.ties,
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
