"""The review sheet: judgements in the browser become a file that training reads as preferences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command_line import command
from facetrm.data.read.files import read_preferences
from facetrm.serve import PageSetup
from gated_models import model
from own_files import questions, quick, save_backbone, turns
from page_samples import EVIL, browser, opened
from serving import Client, reward_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ASKED = questions()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("review")
    with reward_server(lambda: model(folder / "tiny"), page=PageSetup("a", ("b", "c"))) as made:
        yield made


def add(page: Page, prompt: str, a: str, b: str) -> None:
    for label, text in (("Prompt", prompt), ("Answer A", a), ("Answer B", b)):
        page.get_by_label(label, exact=True).fill(text)
    with page.expect_response("**/v1/rewards"):
        page.get_by_role("button", name="Score", exact=True).click()
    page.get_by_text("The server").or_(page.locator(".waterfall")).first.wait_for()
    page.get_by_role("button", name="Add to the review sheet").click()


def downloaded(page: Page, path: Path) -> list[dict[str, object]]:
    with page.expect_download() as found:
        page.get_by_role("button", name="Download").click()
    assert found.value.suggested_filename == "reviewed.jsonl"
    found.value.save_as(path)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").strip().split("\n")]


def test_judgements_are_counted_and_taken_away_as_preferences(
    chromium: Browser, client: Client, tmp_path: Path
) -> None:
    with opened(chromium, client.url) as page:
        page.get_by_role("link", name="Review").click()
        assert page.get_by_text("There is nothing to review.").is_visible()
        page.get_by_role("link", name="Score").click()
        add(page, "how are you ?", f"fine {EVIL}", "no\nsecond line \u2028 \U0001f600")
        add(page, "two plus two ?", "four", "five")
        add(page, "two plus two ?", "four", "five")
        add(page, "who is it ?", "me", "you")
        page.get_by_role("link", name="Review").click()
        cards = page.locator("section.card").filter(has=page.locator("fieldset"))
        assert cards.count() == 3, "the same pair is one explanation"
        for n, (better, agrees) in enumerate((("B", "disagree"), ("A", "agree"), ("cannot say", "agree"))):
            cards.nth(n).get_by_role("radio", name=better, exact=True).check()
            cards.nth(n).get_by_role("radio", name=agrees, exact=True).check()
        cards.nth(0).get_by_label("objective-1").check()
        cards.nth(0).get_by_label("Note").fill('it is "rude"')
        assert page.locator(".review .verdict").inner_text().startswith("2 of 3 explanations agreed with (67%)")
        off = page.locator(".tally").first.locator("tr").filter(has_text="objective-1").locator("td").nth(2)
        assert off.inner_text() == "1"
        assert page.locator(".tally").nth(1).locator("tbody tr").inner_text().split() == ["all", "2", "of", "3", "67%"]
        page.reload()
        page.locator(".review fieldset").first.wait_for()
        rows = downloaded(page, tmp_path / "reviewed.jsonl")
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Clear the sheet").click()
        page.get_by_text("There is nothing to review.").wait_for()
    assert len(rows) == 2, "a pair without a better answer is no preference"
    first, second = read_preferences(tmp_path / "reviewed.jsonl")
    assert first.chosen[-1].content == "no\nsecond line \u2028 \U0001f600"
    assert first.rejected[-1].content == f"fine {EVIL}"
    assert (second.chosen[-1].content, second.rejected[-1].content) == ("four", "five")
    assert (first.task, first.source, first.chosen[0].content) == ("all", "review", "how are you ?")
    review = rows[0]["review"]
    assert isinstance(review, dict)
    assert (review["agrees"], review["off"], review["note"]) == (False, ["objective-1"], 'it is "rude"')


def test_a_reviewed_file_trains_a_model(chromium: Browser, client: Client, tmp_path: Path) -> None:
    sheet = [
        {
            "id": f"review-{n}", "before": [], "prompt": q.question, "a": q.better, "b": q.worse, "task": "all",
            "margin": 0.5, "model": "toy", "model_hash": "0", "edit": None, "agrees": n % 2 == 0, "better": "A",
            "lines": [{"name": "length", "difference": 0.5, "share": 1}], "off": [], "note": "",
        }
        for n, q in enumerate(ASKED)
    ]  # fmt: skip
    pairs = tmp_path / "reviewed.jsonl"
    with opened(chromium, client.url) as page:
        page.evaluate("(sheet) => localStorage.setItem('facetrm.review', JSON.stringify(sheet))", sheet)
        page.get_by_role("link", name="Review").click()
        assert len(downloaded(page, pairs)) == len(ASKED)
    ratings = tmp_path / "ratings.jsonl"
    rated = [
        {"messages": turns(q.question, answer), "ratings": {"helpful": q.helpful[k]}}
        for q in ASKED
        for k, answer in enumerate((q.better, q.worse))
    ]
    ratings.write_text("".join(json.dumps(row) + "\n" for row in rated), encoding="utf-8")
    backbone = save_backbone(tmp_path / "backbone")
    said = command(
        "train", "--ratings", ratings, "--pairs", pairs, "--backbone", backbone, "--out", tmp_path / "run", *quick()
    )
    assert said.code == 0, said.err
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    assert rows["preferences"] + rows["preferences_test"] == len(ASKED)
