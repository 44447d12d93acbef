"""What the page is given when the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final


@final
@dataclass(frozen=True)
class PageSetup:
    """What the page is given when the server starts.

    Attributes:
        prompt: Prompt of the example.
        answers: Answers of the example.
        save_folder: Folder below which edited models are saved; None if they are not.
        browsed: Evaluations and runs to browse, JSON-ready: ``benchmarks``, ``runs`` and ``notes``.
    """

    prompt: str = "How can I sleep better?"
    answers: tuple[str, ...] = ("Go to bed at the same time every day.", "What a stupid question.")
    save_folder: Path | None = None
    browsed: Mapping[str, Any] = field(default_factory=dict)
