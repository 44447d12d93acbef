"""The program: its verbs, and what a user sees when one fails."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Annotated

import typer

from facetrm.cli.judge import doctor
from facetrm.cli.prepare import encode, label
from facetrm.cli.train import run
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
    """Reward models that people can read: train, score, explain."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


for verb in (run, encode, label, score, explain, export, doctor):
    add_verb(app, verb)


def start() -> None:
    """Run the command line in a process of its own, which nothing goes on after: modules stay, and exit looks at none.

    The interpreter's last search for garbage among them would cost as much as loading PyTorch does.
    """
    atexit.register(gc.freeze)
    with frozen_imports():
        main()


def main() -> None:
    """Run the command line; a user sees a message, never a traceback.

    Code 2 is for what the user can fix, 1 for an error of the program itself, which ``FACETRM_TRACEBACK=1`` shows, and
    3 for a model in which ``doctor`` found a fault.
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
        print(f"facetrm: {what}; check path, rights and space", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        goes_on = _keeps_work(sys.argv[1:])
        then = "run the same command again to go on" if goes_on else "nothing was kept, so it starts over next time"
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
            f"facetrm: an error of the program itself ({type(exc).__name__}: {said}); "
            f"please report it with what {TRACEBACK}=1 shows",
            file=sys.stderr,
        )
        sys.exit(1)


def _usage_problem(error: Exception) -> str | None:
    """Return in one line what is wrong with the words of a command line; None where ``error`` is another."""
    explain_usage = getattr(error, "format_message", None)
    if explain_usage is None:
        return None
    context = getattr(error, "ctx", None)
    path = "facetrm" if context is None else context.command_path
    said = printable(" ".join(explain_usage().replace("Value error, ", "").split()).rstrip("."), 500)
    return f"UsageError: {path}: {said}; see {path} --help"


def _leave_quietly() -> None:
    """End after a reader that closed the pipe: what is still buffered goes nowhere, so that nothing complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _keeps_work(arguments: list[str]) -> bool:
    """Return whether a command that is interrupted has kept what it had done."""
    verb = next((one for one in arguments if not one.startswith("-")), "")
    if verb == "score":
        return any(one == "--out" or one.startswith("--out=") for one in arguments)
    return verb in ("run", "encode", "label")
