"""The command that answers other programs: ``serve``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facetrm import core, hub, recipes
from facetrm import data as records
from facetrm import serve as serving
from facetrm.cli.options import AskedMode, Drop, Pin, Scale, Trust, edited_model
from facetrm.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from facetrm.model import RewardModel


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(help="Model or run folder, a shipped model such as desk, or hf://owner/name."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; only this machine reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="File of the keys of clients, as hashes; without it nobody needs a key.")
    ] = None,
    new_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add a key to --keys, print it, and do nothing else.")
    ] = None,
    browse: Annotated[
        list[Path],
        typer.Option(metavar="FOLDER", help="Show this result of eval, or this run, on the page (repeatable)."),
    ] = [],  # noqa: B006
    save_folder: Annotated[
        Path | None, typer.Option(help="Let the page save edited models as new folders below this one.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
    mode: AskedMode = None,
    trust_remote_code: Trust = False,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting: serve.KEY of the service, or backbone.KEY of the model (repeatable).",
        ),
    ] = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
) -> None:
    """Serve a model over HTTP: rewards, explanations and best-of, and the other servers' formats; the page is at /."""
    if new_key is not None:
        if keys is None:
            raise ConfigError("no file of keys", place="--new-key", fix="give --keys FILE as well")
        print(serving.write_key(keys, new_key))
        print(f"the key of {new_key} stands above and nowhere else; {keys} holds its hash", file=sys.stderr)
        return
    if model is None:
        raise ConfigError("no model", place="serve", fix="give a model folder: facetrm serve MODEL")
    config, settings = _settings(sets)
    hub.local_folder(model)  # report a missing folder before anything listens
    page = _page(model, browse, save_folder)

    def load() -> RewardModel:
        loaded = hub.load_model(model, device=device, mode=mode, settings=settings, trust_remote_code=trust_remote_code)
        return edited_model(loaded, drop, scale, pin)

    server = _server()(
        load,
        config=config,
        name=serving.served_name(model, config),
        host=host,
        port=port,
        keys=[] if keys is None else serving.read_known_keys(keys),
        page=page,
    )
    server.serve_until_stopped()


def _page(model: Path, browse: list[Path], save_folder: Path | None) -> serving.PageSetup:
    """Return what the page is given: the pair that the model explains by default, if it is one of plain texts."""
    setup = serving.PageSetup(save_folder=save_folder, browsed=recipes.browse_folders(browse))
    pair = hub.pair_of(model)
    if not pair.is_file():
        return setup
    row = records.read_conversations(pair)[0]
    if not row.is_pair or any(len(answer) != 2 for answer in row.answers):
        return setup
    return replace(setup, prompt=row.answers[0][0].content, answers=tuple(one[-1].content for one in row.answers))


def _settings(sets: list[str]) -> tuple[serving.ServeConfig, dict[str, object]]:
    """Return the settings of the service, and those of the backbone."""
    given = core.apply_sets({}, sets)
    other = next((key for key in given if key not in ("serve", "backbone")), None)
    if other is not None:
        fix = did_you_mean(other, ["serve.max_queue", "backbone.max_tokens"])
        raise ConfigError(f"unknown setting '{other}'", place="--set", fix=f"write serve.KEY or backbone.KEY; {fix}")
    for name in ("serve", "backbone"):
        if not isinstance(given.get(name, {}), dict):
            raise ConfigError(f"'{name}' has no value of its own", place="--set", fix=f"write {name}.KEY=VALUE")
    config = core.parse_config(serving.ServeConfig, given.get("serve", {}), place="--set serve")
    return config, dict(given.get("backbone", {}))


def _server() -> type[serving.RewardHttpServer]:
    try:
        return serving.RewardHttpServer
    except ModuleNotFoundError as exc:
        fix = 'pip install "facetrm[serve]"'
        raise ConfigError(f"the service needs {exc.name}, which is not installed", place="serve", fix=fix) from None
