"""The command line: verbs to functions. Settings are ``--set section.key=value``; inputs and outputs are options.

Each argument says in its own help what it is: model, data, row, html, as_json (``--json``), overall, device, the edits
drop, scale and pin, for ``encode`` the shard_rows, for ``doctor`` against, threshold, rows, allow and timeout, and for
``label`` the rubric, the base_url and dry_run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from facetrm.backbone.store import encode as encode_rows
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.config import apply_sets, parse_config
from facetrm.core.errors import BackboneError, ConfigError, DataError, FacetrmError, did_you_mean
from facetrm.data.rubric import read_rubric
from facetrm.doctor.diagnose import THRESHOLD, diagnose, diagnose_server
from facetrm.doctor.findings import CODES
from facetrm.doctor.terminal import show_diagnosis
from facetrm.explain.ablate import ablate
from facetrm.explain.ask import ask_answer, ask_pair
from facetrm.explain.edit import edit as edit_model
from facetrm.explain.edit import parse_edit
from facetrm.explain.overall import explain_overall
from facetrm.explain.table import WholeView
from facetrm.explain.terminal import AnswerView, PairView, show
from facetrm.hub.load import load_model
from facetrm.label.pairs import read_pairs
from facetrm.label.plan import make_plan
from facetrm.label.run import label_pairs
from facetrm.label.settings import LabelConfig
from facetrm.label.show import estimate_text, report_text
from facetrm.label.store import stored_keys
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.run import run_recipe
from facetrm.recipes.scoring import ScoringRow, located, read_asked, score_rows, write_scores
from facetrm.recipes.show import show_done, show_whole
from facetrm.report.page import write_page

TRACEBACK = "FACETRM_TRACEBACK"

app = typer.Typer(
    name="facetrm",
    help="Reward models that people can read: train, score, explain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as gate.settings.steps=500.")
]
Data = Annotated[Path, typer.Option("--data", help="JSONL or Parquet: rows with 'messages', or preference rows.")]
Reading = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="How a model of others is read, such as truncation=drop_oldest."),
]
AskedMode = Annotated[
    Literal["fast", "exact"] | None,
    typer.Option(
        "--mode", help="fast, or exact: a score cannot depend on what else is scored (the model's by default)."
    ),
]
Drop = Annotated[list[str], typer.Option(metavar="NAME", help="Do not listen to this objective.")]
Scale = Annotated[list[str], typer.Option(metavar="NAME=FACTOR", help="Multiply the weight of this objective.")]
Pin = Annotated[list[str], typer.Option(metavar="NAME=WEIGHT", help="Fix the weight of this objective, 0 to 1.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    out: Annotated[Path | None, typer.Option(help="The run folder (runs/NAME by default).")] = None,
    sets: Sets = [],  # noqa: B006  (typer reads the default and never changes it)
) -> None:
    """Run a recipe: train, compare, explain, save."""
    show_done(run_recipe(recipe, sets=sets, out=out))


@app.command()
def encode(
    backbone: Annotated[str, typer.Option(help="A folder, or a name on the Hub.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The feature folder; run again, it goes on where it stopped.")],
    sets: Sets = [],  # noqa: B006
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a shard.")] = 1024,
) -> None:
    """Read conversations with a backbone, features to disk."""
    config = parse_config(BackboneConfig, apply_sets({"path": backbone}, sets), place="--set")
    asked = read_asked(data)
    conversations = [answer for row in asked for answer in row.answers]
    try:
        store = encode_rows(load_encoder(config), conversations, out, shard_rows=shard_rows)
    except BackboneError as exc:
        raise located(exc, [row for row in asked for _ in row.answers]) from None
    print(f"{len(store)} conversations of {store.hidden_size} features in {out}")


@app.command()
def label(
    data: Annotated[Path, typer.Option("--data", help="Preferences, or ratings with several answers to a prompt.")],
    rubric: Annotated[str, typer.Option(help="A shipped rubric (dmoerm, dmoerm-zh, general), or a .yaml file.")],
    model: Annotated[str, typer.Option(help="The judge's name, as the server knows it.")],
    out: Annotated[Path, typer.Option(help="The folder of labels; run again, it goes on where it stopped.")],
    base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible API, such as ending in /v1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and cost; ask nothing.")] = False,
    sets: Sets = [],  # noqa: B006
) -> None:
    """Ask an LLM which reply is better in which capability, into a folder of labels."""
    settings = apply_sets({"model": model, "base_url": base_url}, sets)
    config = parse_config(LabelConfig, settings, place="--set")
    plan = make_plan(read_pairs(data), read_rubric(rubric), config)
    print(estimate_text(plan.estimate(stored_keys(out))))
    if not dry_run:
        print(report_text(label_pairs(plan, out).report, out))


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="A model folder, a run folder, or a name on the Hub.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="JSONL of score rows (standard output by default).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    mode: AskedMode = None,
    sets: Reading = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
) -> None:
    """Score conversations: JSONL in, JSONL of readable scores out."""
    asked = read_asked(data)
    scorer = _edited(load_model(model, device=device, mode=mode, settings=apply_sets({}, sets)), drop, scale, pin)
    rows = score_rows(scorer, asked, quiet=out is None)
    if out is not None:
        print(f"{write_scores(rows, out)} scores in {out}")
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False, allow_nan=False))


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A model folder, a run folder, or a name on the Hub.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to explain (the run's own pair by default).")
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="The id of the row, or its line in the file (the first row by default).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overall: Annotated[
        bool, typer.Option(help="Explain the model on all rows: who is listened to, and what for.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    mode: AskedMode = None,
    sets: Reading = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
) -> None:
    """Explain one answer, one pair, or the whole model."""
    scorer = _edited(load_model(model, device=device, mode=mode, settings=apply_sets({}, sets)), drop, scale, pin)
    path = data or model / "pair.jsonl"
    if data is None and not path.exists():
        raise DataError("no rows to explain", place=model, fix="give --data FILE")
    asked = read_asked(path)
    if overall:
        _explain_overall(scorer, asked, as_json=as_json)
    else:
        _explain_row(scorer, _find(asked, row, path), html=html, as_json=as_json)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="A model folder, a run folder, a name on the Hub, or a server's URL.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to read in many ways (without: the files alone).")
    ] = None,
    against: Annotated[str | None, typer.Option(help="A local copy of what the server serves.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="Drift that is a fault, in standard deviations of the rewards.")
    ] = THRESHOLD,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the data to read.")] = 32,
    allow: Annotated[list[str], typer.Option(metavar="CODE", help="A finding that does not count.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    sets: Reading = [],  # noqa: B006
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one answer of a server.")] = 60.0,
) -> None:
    """Find what makes a model's scores wrong. Exit code 0: healthy; 3: an error or a warning was found."""
    unknown = next((code for code in allow if code not in CODES), None)
    if unknown is not None:
        raise ConfigError(f"no finding '{unknown}'", place="--allow", fix=did_you_mean(unknown, CODES))
    asked = [] if data is None else read_asked(data)[:rows]
    groups = [row.answers for row in asked]
    options: Any = {
        "threshold": threshold,
        "device": device,
        "allowed": allow,
        "settings": apply_sets({}, sets),
    }
    served = model.startswith(("http://", "https://"))
    if against is not None and not served:
        raise ConfigError("a copy is compared with a server", place="--against", fix="give the server's URL as MODEL")
    try:
        if served:
            found = diagnose_server(model, groups, against=against, timeout=timeout, **options)
        else:
            found = diagnose(model, groups, **options)
    except BackboneError as exc:
        raise located(exc, [row for row in asked for _ in row.answers]) from None
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show_diagnosis(found)
    raise typer.Exit(found.exit_code)


def _find(asked: list[ScoringRow], row: str | None, path: Path) -> ScoringRow:
    by_id = {a.id: a for a in asked}
    by_line = {str(a.line): a for a in asked}
    found = asked[0] if row is None else by_id.get(row) or by_line.get(row)
    if found is not None:
        return found
    raise DataError(f"no row '{row}' among {len(asked)}", place=path, fix=did_you_mean(str(row), list(by_id)[:50]))


def _edited(model: RewardModel, drop: list[str], scale: list[str], pin: list[str]) -> RewardModel:
    if not (drop or scale or pin):
        return model
    wish = parse_edit(drop=drop, scale=scale, pin=pin)
    return edit_model(model, drop=wish.drop, scale=wish.scale, pin=wish.pin)


def _explain_row(model: RewardModel, asked: ScoringRow, *, html: Path | None, as_json: bool) -> None:
    answers = (asked.answers[0], asked.answers[-1]) if asked.is_pair else asked.answers
    if len(asked.answers) > 2:
        print(
            f"row {asked.id} ranks {len(asked.answers)} answers: the first and the last are compared", file=sys.stderr
        )
    try:
        if asked.is_pair:
            pair, flip = ask_pair(model, answers[0], answers[-1])
            shown = {**pair.to_dict(), "flip": None if flip is None else flip.to_dict()}
            view: PairView | AnswerView = PairView(pair, (answers[0], answers[-1]), flip)
            if html is not None:
                write_page(html, pair, conversations=answers, flip=flip)
        else:
            local = ask_answer(model, answers[0])
            shown, view = local.to_dict(), AnswerView(local, answers[0])
            if html is not None:
                write_page(html, local, conversations=answers)
    except BackboneError as exc:
        raise located(exc, [asked, asked]) from None
    if as_json:
        print(json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show(view)
    if html is not None:
        print(f"page: {html}", file=sys.stderr)


def _explain_overall(model: RewardModel, asked: list[ScoringRow], *, as_json: bool) -> None:
    rows = [a for a in asked if a.is_pair] or asked
    try:
        routed = model.tasks_of([a.answers[0] for a in rows])
    except BackboneError as exc:
        raise located(exc, rows) from None
    views = {
        task: _whole(model, [a for a, of in zip(rows, routed, strict=True) if of == task], task)
        for task in model.tasks
        if task in routed
    }
    if as_json:
        shown: dict[str, Any] = {
            task: {"overall": v.overall.to_dict(), "ablation": None if v.effects is None else v.effects.to_dict()}
            for task, v in views.items()
        }
        value = {"tasks": shown} if len(model.tasks) > 1 else next(iter(shown.values()))
        print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        for view in views.values():
            show_whole(view)


def _whole(model: RewardModel, rows: list[ScoringRow], task: str) -> WholeView:
    """Explain one task's mixture on its rows."""
    try:
        first = model.features([a.answers[0] for a in rows], task=task)
        last = model.features([a.answers[-1] for a in rows], task=task) if rows[0].is_pair else None
    except BackboneError as exc:
        raise located(exc, rows) from None
    tasks = [a.task or "" for a in rows] if all(a.task for a in rows) else []
    whole = explain_overall(model, first, last, tasks=tasks, task=task)
    effects = None if last is None else ablate(model, first, last, task=task)
    return WholeView(whole, effects, task if len(model.tasks) > 1 else "")


def main() -> None:
    """Run the command line; a user sees a message, never a traceback.

    Code 2 is for what the user can mend, 1 for an error of the program itself, which ``FACETRM_TRACEBACK=1`` shows, and
    3 for a model in which ``doctor`` found a fault.
    """
    try:
        app(prog_name="facetrm")
    except FacetrmError as exc:
        print(f"facetrm: {type(exc).__name__}: {exc}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as exc:
        print(
            f"facetrm: {exc.filename or 'file'}: {exc.strerror or exc}; check path, rights and space", file=sys.stderr
        )
        sys.exit(2)
    except Exception as exc:
        if os.environ.get(TRACEBACK):
            raise
        said = " ".join(str(exc).split())[:300]
        print(
            f"facetrm: an error of the program itself ({type(exc).__name__}: {said}); "
            f"please report it with what {TRACEBACK}=1 shows",
            file=sys.stderr,
        )
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as exc:
        code = 130 if isinstance(exc, KeyboardInterrupt) else exc.code
        if code == 130:
            print("facetrm: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(code)
