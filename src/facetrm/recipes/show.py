"""What ``facetrm run`` and ``facetrm explain --overall`` print."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from facetrm.data.records import Preference
from facetrm.explain.ask import ask_pair
from facetrm.explain.table import WholeView
from facetrm.explain.terminal import PairView, show
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.finetune import FineTuneRun
from facetrm.recipes.run import Run
from facetrm.report.run_report import SYSTEMS


def show_whole(view: WholeView) -> None:
    """Print who is listened to in one task's mixture, and what dropping each objective does: a ``view`` of both."""
    _console().print(view)


def show_run(run: Run) -> None:
    """Print the accuracies of an ArmoRM run, what debiasing did, and the explained pair."""
    table = Table(
        title=f"Accuracy on {run.metrics['rows']['preferences_test']} held-out pairs, 95% interval over prompts"
    )
    table.add_column("system")
    table.add_column("against the labels", justify="right")
    if run.judgement.true:
        table.add_column("against the true order", justify="right")
    for name, title in SYSTEMS.items():
        if name in run.judgement.noisy:
            cells = [run.judgement.noisy[name], *([run.judgement.true[name]] if run.judgement.true else [])]
            table.add_row(title, *(f"{100 * c.value:.1f}  ({100 * c.low:.1f} to {100 * c.high:.1f})" for c in cells))
    console = _console()
    console.print(table)
    debias, recovery = run.metrics["debias"], run.metrics["weight_recovery_spearman"]
    if debias["target"] is not None:
        print(f"largest |rank correlation| with {debias['target']} on the reference set: {debias['max_abs_rho']:.4f}")
    before, after = debias["within_prompt_length_rho_before"], debias["within_prompt_length_rho"]
    if before is not None and after is not None:
        print(f"final score with length inside prompts: {before:+.3f} before, {after:+.3f} after debiasing")
    if recovery is not None:
        print(f"learned against true task weights: Spearman {recovery:.2f}")
    _show_pair(run.fit.model, run.explained)
    print(f"\n{run.metrics['seconds']['total']:.0f} s. Open {run.folder / 'report.html'}")
    print(f"Next: facetrm explain {run.folder}    facetrm score {run.folder} --data FILE.jsonl")


def show_fine_tuned(run: FineTuneRun) -> None:
    """Print what fine-tuning gave beside the frozen trunk, and the explained pair."""
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
    after, before = run.metrics["mean_spearman"], run.metrics["mean_spearman_frozen"]
    if after is not None:
        beside = "" if before is None else f" (heads on the frozen trunk: {before:.3f})"
        print(f"mean rank correlation with held-out ratings: {after:.3f}{beside}")
    _show_pair(run.model, run.explained)
    print(f"\n{run.metrics['seconds']['total']:.0f} s. Figures: {run.folder / 'metrics.json'}")
    print(f"Next: facetrm explain {run.folder}    facetrm score {run.folder} --data FILE.jsonl")


def _show_pair(model: RewardModel, pair: Preference) -> None:
    explained, flip = ask_pair(model, pair.chosen, pair.rejected)
    show(PairView(explained, (pair.chosen, pair.rejected), flip, top=6))


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
