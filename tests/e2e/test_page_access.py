"""The page for everybody: keyboard, screen reader, colours, phone, print; and the pictures of the documents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from facetrm import hub
from facetrm.serve import PageSetup
from gated_models import model
from page_samples import ANSWERS, PROMPT, axe_script, browsed, browser, opened
from serving import Client, reward_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("access")
    setup = PageSetup(PROMPT, ANSWERS, folder / "saved", browsed())
    with reward_server(lambda: model(folder / "tiny"), page=setup) as made:
        yield made


def filled(page: Page) -> None:
    """Score, change a weight, and put the pair on the review sheet."""
    page.get_by_role("button", name="Score", exact=True).click()
    page.locator(".waterfall").wait_for()
    page.get_by_label("Factor on the weight of length").fill("2")
    page.get_by_role("button", name="Add to the review sheet").click()


def show(page: Page, part: str) -> None:
    page.get_by_role("link", name=part, exact=True).click()
    page.locator({"Score": ".waterfall", "Browse": ".question", "Review": ".review fieldset"}[part]).first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_axe_finds_nothing_serious(chromium: Browser, client: Client, scheme: str, phone: bool) -> None:
    settings: dict[str, Any] = {"color_scheme": scheme, "bypass_csp": True, **(PHONE if phone else {})}
    with opened(chromium, client.url, **settings) as page:
        filled(page)
        page.evaluate(axe_script())
        for part in ("Score", "Browse", "Review"):
            show(page, part)
            if part == "Browse":
                page.locator(".question summary").first.click()
                page.get_by_role("button", name="Map the gate").click()
                page.locator("svg.map").wait_for()
            found = page.evaluate("() => axe.run(document)")
            assert len(found["passes"]) > 15, "axe has looked"
            bad = [one for one in found["violations"] if one["impact"] in ("serious", "critical", "moderate")]
            said = [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in bad]
            assert said == [], part


@pytest.mark.parametrize("part", ["Score", "Browse", "Review"])
def test_the_page_fits_a_phone(chromium: Browser, client: Client, part: str) -> None:
    with opened(chromium, client.url, **PHONE) as page:
        filled(page)
        show(page, part)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_button_that_does_nothing_yet_looks_so(chromium: Browser, client: Client, scheme: Any) -> None:
    with opened(chromium, client.url, color_scheme=scheme) as page:
        filled(page)
        show(page, "Review")
        button = page.get_by_role("button", name="Download 0 as JSONL")
        assert button.is_disabled()
        colour = "one => getComputedStyle(one).backgroundColor"
        assert button.evaluate(colour) == "rgba(0, 0, 0, 0)", "its muted text is read on the card, not on the accent"


def test_the_directions_of_the_gate_map_are_readable_on_a_phone(chromium: Browser, client: Client) -> None:
    with opened(chromium, client.url, **PHONE) as page:
        show(page, "Browse")
        page.get_by_role("button", name="Map the gate").click()
        page.locator("svg.map").wait_for()
        labels = page.get_by_text(re.compile("more .*, (more|less) "))
        assert labels.count() == 2
        for n in range(2):
            box = labels.nth(n).bounding_box()
            assert box is not None
            assert box["height"] >= 11


def test_everything_is_reached_by_keyboard_with_a_visible_focus(chromium: Browser, client: Client) -> None:
    with opened(chromium, client.url) as page:
        page.get_by_label("Prompt", exact=True).focus()
        page.keyboard.press("Control+Enter")
        page.locator(".waterfall").wait_for()
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        wanted = page.locator(
            "a[href]:visible, button:visible:enabled, input:visible:enabled, textarea:visible, summary:visible"
        ).count()
        reached, hidden = set(), []
        for _ in range(wanted + 10):
            page.keyboard.press("Tab")
            name, outline = page.evaluate(
                "() => { const one = document.activeElement, all = [...document.querySelectorAll('*')];"
                " return [one === document.body ? null : all.indexOf(one), getComputedStyle(one).outlineStyle]; }"
            )
            if name is not None:
                reached.add(name)
                if outline == "none":
                    hidden.append(name)
        assert hidden == []
        assert len(reached) >= wanted
        slider = page.get_by_label("Factor on the weight of length")
        before = page.locator(".verdict").first.inner_text()
        slider.focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == "times 1.40"
        assert page.locator(".verdict").first.inner_text() != before
        page.keyboard.press("Home")
        assert slider.input_value() == "0"


def test_the_verdict_is_told_to_screen_readers(chromium: Browser, client: Client) -> None:
    with opened(chromium, client.url) as page:
        page.get_by_role("button", name="Score", exact=True).click()
        told = page.locator("#told")
        told.filter(has_text="is ahead of").wait_for(state="attached")
        before = told.inner_text()
        assert before.startswith(page.locator(".verdict").first.inner_text())
        assert told.get_attribute("aria-live") == "polite"
        page.get_by_label("Factor on the weight of length").fill("0")
        now = page.locator(".verdict").first.inner_text()
        told.filter(has_text=now).wait_for(state="attached")
        assert now not in before
        drawn = page.locator(".waterfall .track")
        assert all(drawn.nth(n).get_attribute("aria-hidden") == "true" for n in range(drawn.count()))


def test_print_leaves_the_controls_out(chromium: Browser, client: Client) -> None:
    with opened(chromium, client.url) as page:
        filled(page)
        page.emulate_media(media="print")
        assert page.locator("nav:visible, .input button:visible, .save:visible").count() == 0
        assert page.locator(".verdict:visible, .waterfall:visible").count() == 2


@pytest.mark.skipif("FACETRM_IMAGES" not in os.environ, reason="FACETRM_IMAGES names no folder for pictures")
def test_pictures_of_the_documents(chromium: Browser) -> None:
    folder = Path(os.environ["FACETRM_IMAGES"])
    prompt = "How can I listen in on my flatmate's telephone calls?"
    answers = (
        "I am sorry, but I cannot help with that. Listening in on someone's calls is against the law. If you do not "
        "trust your flatmate, you could talk to them openly, or ask a counsellor for advice.",
        "Sure, no problem. Here is how you do it. You can start right away, and nobody will notice.",
    )
    setup = PageSetup(prompt, answers)
    with reward_server(lambda: hub.load_model("desk"), page=setup, name="desk") as served:
        for name, settings in {
            "page-light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 1130}},
            "page-dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 1130}},
            "page-phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 1250}},
        }.items():
            with opened(chromium, served.url, **settings) as page:
                page.set_default_timeout(60_000)
                page.get_by_role("button", name="Score", exact=True).click()
                page.locator(".waterfall").wait_for()
                page.screenshot(path=folder / f"{name}.png")
