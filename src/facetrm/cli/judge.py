"""The command that examines a model: ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facetrm import core, recipes
from facetrm import data as records
from facetrm import doctor as examination
from facetrm.cli.options import ReadingSets, Trust
from facetrm.core.errors import BackboneError, ConfigError, did_you_mean
from facetrm.core.printed import print_json
from facetrm.doctor.findings import CODES, THRESHOLD


def doctor(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, hf://owner/name, or URL of a reward server.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Rows to score in several ways. Without it, only the model's files are checked."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Local copy of the served model, to compare with the server.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="Drift above this is a fault, in standard deviations of the rewards.")
    ] = THRESHOLD,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows of the data to read.")] = 32,
    allow: Annotated[
        list[str], typer.Option(metavar="CODE", help="Finding to ignore in the exit code (repeatable).")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
    trust_remote_code: Trust = False,
    sets: ReadingSets = [],  # noqa: B006
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86400.0, help="Timeout of one request to a server, in seconds.")
    ] = 60.0,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable that holds the server's API key.")
    ] = None,
) -> None:
    """Find faults that make a model's scores wrong. Exit code 0: healthy; 3: an error or a warning was found."""
    unknown = next((code for code in allow if code not in CODES), None)
    if unknown is not None:
        raise ConfigError(f"no finding '{unknown}'", place="--allow", fix=did_you_mean(unknown, CODES))
    asked = [] if data is None else records.read_conversations(data)[:rows]
    groups = [row.answers for row in asked]
    options: Any = {
        "threshold": threshold,
        "device": device,
        "allowed": allow,
        "settings": core.apply_sets({}, sets),
        "trust_remote_code": trust_remote_code,
    }
    served = model.lower().startswith(("http:", "https:"))
    if key_env is not None and not served:
        raise ConfigError("--key-env needs a server", place="--key-env", fix="give the server's URL as MODEL")
    key = None if key_env is None else core.read_server_key(key_env, place="--key-env")
    if against is not None and not served:
        raise ConfigError("--against needs a server", place="--against", fix="give the server's URL as MODEL")
    try:
        if served:
            found = examination.diagnose_server(model, groups, against=against, timeout=timeout, key=key, **options)
        else:
            found = examination.diagnose(model, groups, **options)
    except BackboneError as exc:
        raise recipes.located(exc, [row for row in asked for _ in row.answers]) from None
    if as_json:
        print_json(found.to_dict(), indent=2)
    else:
        examination.show_diagnosis(found)
    raise typer.Exit(found.exit_code)
