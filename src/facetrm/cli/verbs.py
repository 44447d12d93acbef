"""Turn functions into commands. Every command can log JSON lines, and some list their settings in their help."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from facetrm import backbone as backbones
from facetrm import core
from facetrm import label as labels
from facetrm import serve as serving
from facetrm.core.progress import shown_logs

LogJson = Annotated[bool, typer.Option("--log-json", help="Write logs to standard error as JSON lines.")]


class SettingsCommand(TyperCommand):
    """A command whose help ends with its settings; a subclass for each, since Typer makes commands from classes."""

    @staticmethod
    @abstractmethod
    def settings() -> str:
        """Return the help of the settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the command, followed by its settings.

        Args:
            ctx: Context of the command.
            formatter: Formatter that collects the text.
        """
        super().format_help(ctx, formatter)
        formatter.write(self.settings())


class EncodeCommand(SettingsCommand):
    """The command ``encode``, with the settings of the backbone."""

    @staticmethod
    def settings() -> str:
        """Return the help of the settings."""
        return settings_help(core.settings_text(backbones.BackboneConfig, skip=("path",)))


class LabelCommand(SettingsCommand):
    """The command ``label``, with the settings of labelling."""

    @staticmethod
    def settings() -> str:
        """Return the help of the settings."""
        return settings_help(core.settings_text(labels.LabelConfig, skip=("model", "base_url")))


class ServeCommand(SettingsCommand):
    """The command ``serve``, with the settings of the service."""

    @staticmethod
    def settings() -> str:
        """Return the help of the settings."""
        shown = core.settings_text(serving.ServeConfig).replace("\n    ", "\n")
        return settings_help(shown).replace("KEY=VALUE", "serve.KEY=VALUE")


_NAMES = {"list_recipes": "recipes", "evaluate": "eval"}  # functions of these names would hide a module or a builtin
_COMMANDS: dict[str, type[TyperCommand]] = {"encode": EncodeCommand, "label": LabelCommand, "serve": ServeCommand}


def settings_help(text: str) -> str:
    """Return the section of settings that ends a help text.

    Args:
        text: The settings, one or more lines each.
    """
    return f"\nSettings, for --set KEY=VALUE:\n\n{text}\n"


def add_verb(app: typer.Typer, verb: Callable[..., None]) -> None:
    """Add a command to the program, with the option ``--log-json``.

    Args:
        app: The program.
        verb: Function that becomes the command.
    """
    signature = inspect.signature(verb, eval_str=True)
    log_json = inspect.Parameter("log_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=LogJson)

    @wraps(verb)
    def logged(*, log_json: bool, **options: Any) -> None:
        with shown_logs(json_lines=log_json):
            verb(**options)

    parameters = [*signature.parameters.values(), log_json]
    vars(logged)["__signature__"] = signature.replace(parameters=parameters)
    logged.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(_NAMES.get(verb.__name__), cls=_COMMANDS.get(verb.__name__))(logged)
