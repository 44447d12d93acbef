"""How a function becomes a verb: every verb can log as JSON lines, and some list their settings in their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from facetrm import backbone as backbones
from facetrm import core
from facetrm import label as labels
from facetrm.core.progress import shown_logs

LogJson = Annotated[bool, typer.Option("--log-json", help="Log to standard error as JSON lines.")]


class EncodeCommand(TyperCommand):
    """``encode``: its help ends with the settings of a backbone."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the verb: what ``ctx`` says of it and, by ``formatter``, its settings."""
        super().format_help(ctx, formatter)
        formatter.write(settings_help(core.settings_text(backbones.BackboneConfig, skip=("path",))))


class LabelCommand(TyperCommand):
    """``label``: its help ends with the settings of labelling."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the verb: what ``ctx`` says of it and, by ``formatter``, its settings."""
        super().format_help(ctx, formatter)
        formatter.write(settings_help(core.settings_text(labels.LabelConfig, skip=("model", "base_url"))))


_COMMANDS: dict[str, type[TyperCommand]] = {"encode": EncodeCommand, "label": LabelCommand}


def settings_help(text: str) -> str:
    """Return the end of a help text: the settings, one line or more each, in ``text``."""
    return f"\nSettings, for --set KEY=VALUE:\n\n{text}\n"


def add_verb(app: typer.Typer, verb: Callable[..., None]) -> None:
    """Make ``verb`` a command of ``app``, with the option ``--log-json``."""
    signature = inspect.signature(verb, eval_str=True)
    log_json = inspect.Parameter("log_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=LogJson)

    @wraps(verb)
    def logged(*, log_json: bool, **options: Any) -> None:
        with shown_logs(json_lines=log_json):
            verb(**options)

    parameters = [*signature.parameters.values(), log_json]
    vars(logged)["__signature__"] = signature.replace(parameters=parameters)
    logged.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(cls=_COMMANDS.get(verb.__name__))(logged)
