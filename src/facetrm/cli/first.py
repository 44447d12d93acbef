"""The command ``demo``: a finished model explains a pair, without any training or file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from facetrm import data as records
from facetrm import hub
from facetrm.cli.explained import print_row
from facetrm.core.errors import ModelError
from facetrm.core.lazy import load_name

DEMO: Final = "desk"
"""Name of the shipped model that the demo shows."""


def demo(
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("facetrm-demo.html"),
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Whether to open the page in a browser.")] = True,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
) -> None:
    """Explain a pair of answers with the model that ships with the package, and open the page."""
    folder = hub.shipped_models().get(DEMO)
    if folder is None:
        raise ModelError("this installation has no shipped model", place=DEMO, fix="install facetrm from its wheel")
    print("A reward model that was trained on generated data, on SmolLM2-135M-Instruct, compares two answers.\n")
    model = hub.load_model(folder, device=device)
    print_row(model, records.read_conversations(folder / "pair.jsonl")[0], html=out, as_json=False)
    print(
        "\nTry your own: "
        f'facetrm explain {DEMO} --prompt "How can I sleep better?" '
        '--a "Go to bed at the same time every day. I hope that helps." --b "What a stupid question."'
    )
    if open_page and sys.stdout.isatty():
        load_name("webbrowser", "open")(out.resolve().as_uri())
