"""What the tests of the page share: a browser, a server with every part of the page, and a small result to browse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
PROMPT = "how are you ?"
ANSWERS = ("fine , thank you", f"write a poem {EVIL}")


def question(n: int, verdicts: tuple[str, str], margins: tuple[float, float]) -> dict[str, Any]:
    """Return a question as the page gets it, answered by the models ``one`` and ``two``."""
    return {
        "id": f"q{n}",
        "subset": "poems" if n % 2 else "sums",
        "task": "poems" if n % 2 else "sums",
        "answers": 2,
        "longer_by": 1,
        "prompt": [{"role": "user", "content": f"question {n} {EVIL}"}],
        "right": [f"right {n} {EVIL}"],
        "wrong": [f"wrong {n}"],
        "sides": {
            name: {"verdict": verdict, "margin": margin, "contributions": {"honest": margin}}
            for name, verdict, margin in zip(("one", "two"), verdicts, margins, strict=True)
        },
    }


def browsed() -> dict[str, Any]:
    """Return one benchmark of two models with 24 questions, and one run."""
    questions = []
    for n in range(24):
        size = 0.1 * (n + 1)
        first, second = ("wrong" if n % 3 == 0 else "right"), ("wrong" if n % 4 == 0 else "right")
        margins = (-size if first == "wrong" else size), (-2 * size if second == "wrong" else 2 * size)
        questions.append(question(n, (first, second), margins))
    figure = {"one": (0.66, 0.5, 0.8), "two": (0.75, 0.6, 0.85), "longest": (0.5, 0.4, 0.6), "chance": None}
    shares = {"objectives": ["honest", "kind"], "tasks": ["sums", "poems"], "values": [[0.75, 0.5], [0.25, 0.5]]}
    return {
        "benchmarks": [
            {
                "name": "mine",
                "title": f"Mine {EVIL}",
                "note": "",
                "models": ["one", "two"],
                "baselines": ["longest"],
                "figures": {"total": figure},
                "slices": {},
                "differences": [{"first": "one", "second": "two", "value": (-0.09, -0.2, 0.02), "paired": True}],
                "shares": {"one": shares},
                "questions": questions,
            }
        ],
        "runs": [
            {
                "name": "run-1",
                "statement": "Better than chance.",
                "good": True,
                "accuracy": {"all": {"gate": 0.7, "longer": 0.5}},
                "pair": {"prompt": [{"role": "user", "content": "of a run"}], "answers": ["yes", "no"]},
            }
        ],
        "notes": ["A note."],
    }


def chromium() -> str:
    """Return the path of Chromium, or skip the test."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium without a window; the test is skipped if it or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = chromium()
    with playwright.sync_playwright() as made:
        started = made.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(started: Browser, url: str, **settings: Any) -> Iterator[Page]:
    """Open the page in a context of its own. Errors in its scripts, and requests to other hosts, fail the test."""
    context = started.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    page = context.new_page()
    page.set_default_timeout(15_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((url, "blob:")) else errors.append(asked.url))
    page.goto(f"{url}/")
    page.locator("nav a[aria-current]").wait_for()
    yield page
    assert errors == []
    context.close()


def axe_script() -> str:
    """Return the source of axe-core, or skip the test."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
