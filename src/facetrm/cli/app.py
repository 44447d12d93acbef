"""The ``facetrm`` program: its commands, and the messages and exit codes of errors."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Annotated

import typer

from facetrm.cli.evaluated import evaluate
from facetrm.cli.first import demo
from facetrm.cli.judge import doctor
from facetrm.cli.prepare import encode, label
from facetrm.cli.reported import report
from facetrm.cli.served import serve
from facetrm.cli.train import init, list_recipes, run, train
from facetrm.cli.use import explain, export, score
from facetrm.cli.verbs import add_verb
from facetrm.core.errors import FacetrmError, printable
from facetrm.core.lazy import frozen_imports, load_name
from facetrm.core.printed import tolerant_streams

TRACEBACK = "FACETRM_TRACEBACK"

app = typer.Typer(
    name="facetrm",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"facetrm {load_name('facetrm.core.version', '__version__')}")
        raise typer.Exit()


@app.callback()
def program(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-v", callback=_say_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Train, explain, check and use interpretable reward models."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


for verb in (
    demo,
    init,
    train,
    run,
    list_recipes,
    encode,
    label,
    score,
    explain,
    export,
    evaluate,
    report,
    doctor,
    serve,
):
    add_verb(app, verb)


def start() -> None:
    """Run the command line as the only task of this process.

    Objects are frozen at exit, because the interpreter's last garbage collection would take as long as loading PyTorch.
    """
    atexit.register(gc.freeze)
    with frozen_imports():
        main()


def main() -> None:
    """Run the command line. Users see a message, not a traceback.

    Exit codes: 2 for an error that the user can fix, 1 for an internal error (``FACETRM_TRACEBACK=1`` shows its
    traceback), and 3 if ``doctor`` found a fault in the model or ``eval`` missed a bound.
    """
    tolerant_streams()
    try:
        code = app(prog_name="facetrm", standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except FacetrmError as exc:
        print(f"facetrm: {type(exc).__name__}: {exc}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        _leave_quietly()
    except OSError as exc:
        what = printable(f"{exc.filename or 'file'}: {exc.strerror or exc}", 500)
        print(f"facetrm: {what}; check the path, its permissions and the free space", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        kept = _keeps_work(sys.argv[1:])
        then = "run the same command again to continue" if kept else "nothing was kept, so the next run starts over"
        print(f"facetrm: interrupted; {then}", file=sys.stderr)
        sys.exit(130)
    except Exception as exc:
        usage = _usage_problem(exc)
        if usage is not None:
            print(f"facetrm: {usage}", file=sys.stderr)
            sys.exit(2)
        if os.environ.get(TRACEBACK):
            raise
        said = printable(" ".join(str(exc).split()), 300)
        print(
            f"facetrm: internal error ({type(exc).__name__}: {said}); "
            f"please report it with the traceback that {TRACEBACK}=1 shows",
            file=sys.stderr,
        )
        sys.exit(1)


def _usage_problem(error: Exception) -> str | None:
    """Return one line on what is wrong with the command line; None if ``error`` is not a usage error."""
    explain_usage = getattr(error, "format_message", None)
    if explain_usage is None:
        return None
    context = getattr(error, "ctx", None)
    path = "facetrm" if context is None else context.command_path
    said = printable(" ".join(explain_usage().replace("Value error, ", "").split()).rstrip("."), 500)
    return f"UsageError: {path}: {said}; see {path} --help"


def _leave_quietly() -> None:
    """Exit after the reader has closed the pipe; discard buffered output, so that flushing it cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _keeps_work(arguments: list[str]) -> bool:
    """Return whether a command keeps its finished work when it is interrupted."""
    verb = next((one for one in arguments if not one.startswith("-")), "")
    if verb == "score":
        return any(one == "--out" or one.startswith("--out=") for one in arguments)
    return verb in ("run", "train", "encode", "label", "eval")
