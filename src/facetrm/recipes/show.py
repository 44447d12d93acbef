"""The output of ``facetrm run`` and ``facetrm explain --overall``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from facetrm.core.statistics import Interval
from facetrm.data.records import Preference
from facetrm.evaluate.verdict import Verdict
from facetrm.explain.ask import explain_pair, flip_explained
from facetrm.explain.table import WholeView
from facetrm.explain.terminal import PairView, show
from facetrm.fit.experts.adapters import ExpertFit
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.baselines.figures import RivalRun
from facetrm.recipes.dmoerm.figures import adapters_line
from facetrm.recipes.dmoerm.fit import DmoermRun
from facetrm.recipes.finetune.fit import FineTuneRun
from facetrm.recipes.reading import Reading
from facetrm.recipes.run import Run
from facetrm.report.run_report import SYSTEM_TITLES

_RIVAL_TITLES: Final = {
    "bradley_terry": "Bradley-Terry reward model",
    "pairwise": "pairwise preference model",
    "dpo": "policy, by its implicit reward",
    "ensemble": "ensemble",
    "direction": "fixed weights",
    "length_calibration": "model without what length explains",
    "longer": SYSTEM_TITLES["longer"],
}


def show_whole(view: WholeView) -> None:
    """Print how much each objective counts in one task's mixture, and what dropping it changes."""
    _console().print(view)


def show_done(done: Run | FineTuneRun | DmoermRun | RivalRun | None) -> None:
    """Print the results of a finished run. Of several processes, only the first prints."""
    if isinstance(done, FineTuneRun):
        show_fine_tuned(done)
    elif isinstance(done, DmoermRun):
        show_routed(done)
    elif isinstance(done, RivalRun):
        show_rival(done)
    elif done is not None:
        show_run(done)


def show_run(run: Run) -> None:
    """Print the accuracies of an ArmoRM run, the effect of debiasing, and the explained pair."""
    judged = run.judgement
    pairs = run.metrics["rows"]["preferences_test"]
    _console().print(accuracy_table(judged.noisy, judged.true, pairs=pairs))
    _show_reading(run.rows.reading)
    debias, recovery = run.metrics["debias"], run.metrics["weight_recovery_spearman"]
    if debias["target"] is not None:
        print(f"largest |rank correlation| with {debias['target']} on the reference set: {debias['max_abs_rho']:.4f}")
        if debias["max_abs_rho_held_out"] is not None:
            print(f"  and on the held-out pairs, which debiasing has not seen: {debias['max_abs_rho_held_out']:.4f}")
    before, after = debias["within_prompt_length_rho_before"], debias["within_prompt_length_rho"]
    if before is not None and after is not None:
        print(f"final score with length within prompts: {before:+.3f} before, {after:+.3f} after debiasing")
    if recovery is not None:
        print(f"learned against true task weights: Spearman {recovery:.2f}")
    _show_pair(run.model, run.explained)
    show_verdict(judged.verdict)
    print(f"\n{run.metrics['seconds']['total']:.0f} s. Open {run.folder / 'report.html'}")
    print(f"Next: facetrm explain {run.folder}    facetrm score {run.folder} --data FILE.jsonl")


def show_verdict(verdict: Verdict) -> None:
    """Print what the held-out pairs say about the model of a run."""
    print()
    for line in verdict.lines():
        _console().print(line, soft_wrap=True)


def show_fine_tuned(run: FineTuneRun) -> None:
    """Print the figures of the fine-tuned heads next to those on the frozen trunk, and the explained pair."""
    figures, console = run.figures, _console()
    table = Table(title=f"Accuracy on {run.metrics['rows']['preferences_test']} held-out pairs, 95% interval")
    for column in ("head", "fine-tuned", "on the frozen trunk", "difference"):
        table.add_column(column, justify="left" if column == "head" else "right")
    for name in ("preference", "objectives"):
        cells = [figures.noisy.get(name), figures.noisy.get(f"frozen_{name}"), figures.gained.get(name)]
        if cells[0] is not None:
            shown = [
                "-" if c is None else f"{100 * c.value:.1f}  ({100 * c.low:.1f} to {100 * c.high:.1f})" for c in cells
            ]
            table.add_row({"preference": "preference", "objectives": "mean of the objectives"}[name], *shown)
    console.print(table)
    _show_reading(run.reading)
    after, before = run.metrics["mean_spearman"], run.metrics["mean_spearman_frozen"]
    if after is not None:
        beside = "" if before is None else f" (heads on the frozen trunk: {before:.3f})"
        print(f"mean rank correlation with held-out ratings: {after:.3f}{beside}")
    _show_pair(run.model, run.explained)
    show_verdict(figures.verdict)
    print(f"\n{run.metrics['seconds']['total']:.0f} s. Figures: {run.folder / 'metrics.json'}")
    print(f"Next: facetrm explain {run.folder}    facetrm score {run.folder} --data FILE.jsonl")


def show_routed(run: DmoermRun) -> None:
    """Print the router's accuracy, the accuracies of a DMoERM run, and the explained pair."""
    router, judged = run.fit.router, run.judgement
    if router is not None:
        right = router.report.accuracy
        print(
            f"router: {100 * right.value:.1f}% ({100 * right.low:.1f} to {100 * right.high:.1f}) of "
            f"{router.report.rows} held-out rows correct, calibration error {router.report.calibration_error:.3f}"
        )
    _console().print(accuracy_table(judged.noisy, judged.true, pairs=len(judged.pairs)))
    _show_reading(run.reading)
    _console().print(experts_table(run.fit.trained))
    _console().print(adapters_line(run.fit.trained))
    table = Table(title="Against the labels, by task")
    systems = [name for name in SYSTEM_TITLES if name in judged.noisy]
    table.add_column("task")
    for name in systems:
        table.add_column(SYSTEM_TITLES[name], justify="right")
    for task, row in judged.by_task.items():
        table.add_row(task, *(f"{100 * row[name].value:.1f}" for name in systems))
    _console().print(table)
    _show_pair(run.fit.model, run.explained)
    show_verdict(judged.verdict)
    print(f"\n{run.metrics['seconds']['total']:.0f} s. Open {run.folder / 'report.html'}")
    print(f"Next: facetrm explain {run.folder}    facetrm score {run.folder} --data FILE.jsonl")


def show_rival(run: RivalRun) -> None:
    """Print the accuracy of a rival next to that of the longer answer, and how far it is ahead of its parts."""
    pairs = run.metrics["rows"]["preferences_test"]
    _console().print(accuracy_table(run.noisy, run.true, pairs=pairs, titles=_RIVAL_TITLES))
    _show_reading(run.reading)
    order = run.metrics.get("order")
    if order is not None:
        print(f"same verdict in both orders: {100 * order['agreement']:.1f}%; mean P(A): {order['first']:.2f}")
    for line in _part_lines(run):
        print(line)
    show_verdict(run.verdict)
    print(f"\n{run.metrics['seconds']['total']:.0f} s. Figures: {run.folder / 'metrics.json'}")
    if run.metrics["recipe"] == "bradley-terry":
        print(f"Next: facetrm explain {run.folder}    facetrm score {run.folder} --data FILE.jsonl")
    else:
        print(f"Next: facetrm eval {run.folder} --on FILE.jsonl")
        print(f"In Python: facetrm.baselines.load_rival({str(run.folder)!r})")


def _part_lines(run: RivalRun) -> list[str]:
    """Return one sentence for each system that a rival is made of, and one on the length of answers."""
    lines = []
    for name, found in run.metrics.get("parts", {}).items():
        right, lead = found["accuracy"], found["lead"]
        called = "the model alone" if name == "model" else f"member '{name}' alone"
        ahead = f"{100 * lead['value']:+.1f} points ({100 * lead['low']:+.1f} to {100 * lead['high']:+.1f})"
        lines.append(f"{called}: {100 * right['value']:.1f}% against the labels; the rival minus it: {ahead}")
    length = run.metrics.get("length_calibration")
    if length is not None:
        shown = [f"{'-' if rho is None else format(rho, '.2f')} {when}" for when, rho in length["length_rho"].items()]
        lines.append(f"rank correlation of reward and length: {', '.join(shown)}")
    return lines


def experts_table(trained: Mapping[str, ExpertFit]) -> Table:
    """Return a table of accuracy and loss of each expert before and after training, on held-out prompts.

    Args:
        trained: Fit of every expert and of every task's own adapter, by objective.
    """
    table = Table(title="Experts: held-out accuracy and loss before and after training")
    for column in ("expert", "steps", "rate", "accuracy", "loss", "change", "kept"):
        table.add_column(column, justify="left" if column in ("expert", "kept") else "right")
    for name, fit in trained.items():
        table.add_row(
            name,
            str(fit.steps),
            f"{fit.rate:g}",
            f"{100 * fit.start:.1f} to {100 * fit.accuracy:.1f}",
            f"{fit.start_loss:.3f} to {fit.loss:.3f}",
            f"{100 * fit.change:.0f}%",
            "adapter" if fit.kept else "linear head",
        )
    return table


def accuracy_table(
    noisy: Mapping[str, Interval],
    true: Mapping[str, Interval],
    *,
    pairs: int,
    titles: Mapping[str, str] = SYSTEM_TITLES,
) -> Table:
    """Return a table of each system's accuracy against the labels, and against the true order if that is known.

    Args:
        noisy: Accuracy by system, against the labels.
        true: Accuracy by system, against the true order; empty if unknown.
        pairs: Number of held-out pairs.
        titles: Titles of the systems, in order; a system without a title is left out.
    """
    table = Table(title=f"Accuracy on {pairs} held-out pairs, 95% interval over prompts")
    table.add_column("system")
    table.add_column("against the labels", justify="right")
    if true:
        table.add_column("against the true order", justify="right")
    for name, title in titles.items():
        if name in noisy:
            cells = [noisy[name], *([true[name]] if true else [])]
            table.add_row(title, *(f"{100 * c.value:.1f}  ({100 * c.low:.1f} to {100 * c.high:.1f})" for c in cells))
    return table


def _show_reading(reading: Reading | None) -> None:
    """Print how many conversations were truncated and how many pairs read the same, next to the accuracies."""
    for line in () if reading is None else reading.lines():
        print(line)


def _show_pair(model: RewardModel, pair: Preference) -> None:
    explained = explain_pair(model, pair.chosen, pair.rejected, preferred="A")
    flip = flip_explained(model, explained)
    show(PairView(explained, (pair.chosen, pair.rejected), flip, top=6))


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
