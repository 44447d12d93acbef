"""The program: its verbs, and what a user sees when one fails."""

from __future__ import annotations

import os
import sys

import typer

from facetrm.cli.judge import doctor
from facetrm.cli.prepare import encode, label
from facetrm.cli.train import run
from facetrm.cli.use import explain, score
from facetrm.core.errors import FacetrmError

TRACEBACK = "FACETRM_TRACEBACK"

app = typer.Typer(
    name="facetrm",
    help="Reward models that people can read: train, score, explain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (run, encode, label, score, explain, doctor):
    app.command()(verb)


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
            goes_on = _keeps_work(sys.argv[1:])
            then = "run the same command again to go on" if goes_on else "nothing was kept, so it starts anew next time"
            print(f"facetrm: interrupted; {then}", file=sys.stderr)
        sys.exit(code)


def _keeps_work(arguments: list[str]) -> bool:
    """Return whether a command that is interrupted has kept what it had done."""
    verb = next((one for one in arguments if not one.startswith("-")), "")
    if verb == "score":
        return any(one == "--out" or one.startswith("--out=") for one in arguments)
    return verb in ("run", "encode", "label")
