"""Verbs that judge a model: ``doctor``."""

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
    model: Annotated[str, typer.Argument(help="A model folder, a run folder, hf://owner/name, or a server's URL.")],
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
    trust_remote_code: Trust = False,
    sets: ReadingSets = [],  # noqa: B006
    timeout: Annotated[float, typer.Option(min=0.1, max=86400.0, help="Seconds for one request to a server.")] = 60.0,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the server's key.")
    ] = None,
) -> None:
    """Find what makes a model's scores wrong. Exit code 0: healthy; 3: an error or a warning was found."""
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
        raise ConfigError("only a server takes a key", place="--key-env", fix="give the server's URL as MODEL")
    key = None if key_env is None else core.read_server_key(key_env, place="--key-env")
    if against is not None and not served:
        raise ConfigError("a copy is compared with a server", place="--against", fix="give the server's URL as MODEL")
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
