"""The page in a browser: score, re-weigh, save, browse; what goes wrong is said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapter_models import two_tasks
from facetrm.explain.ask import explain_pair, flip_explained
from facetrm.serve import PageSetup
from facetrm.serve.keys import KnownKey, read_known_keys, write_key
from fakes import chat
from gated_models import model
from page_samples import ANSWERS, EVIL, PROMPT, browsed, browser, opened
from serving import Client, reward_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MOST_TOKENS = 512


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backbone") / "tiny"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def client(backbone: Path, saved: Path) -> Iterator[Client]:
    setup = PageSetup(PROMPT, ANSWERS, saved, browsed())
    with reward_server(lambda: model(backbone), page=setup) as made:
        yield made


@pytest.fixture
def page(chromium: Browser, client: Client) -> Iterator[Page]:
    with opened(chromium, client.url) as made:
        yield made


def score(page: Page) -> str:
    page.get_by_role("button", name="Score", exact=True).click()
    return page.locator(".verdict").first.inner_text()


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("+", ""))


def test_the_verdict_is_that_of_the_model_and_the_differences_sum_to_the_margin(
    page: Page, client: Client, backbone: Path
) -> None:
    pair = explain_pair(model(backbone), chat(PROMPT, ANSWERS[0]), chat(PROMPT, ANSWERS[1]))
    said = score(page)
    ahead, behind = ("A", "B") if pair.margin > 0 else ("B", "A")
    assert said == (
        f"Answer {ahead} is ahead of {behind} by {abs(pair.margin):.4f}; P(A > B) = {pair.probability:.2f}."
    )
    rows = page.locator(".waterfall tbody tr")
    assert rows.count() == 5
    differences = [number(rows.nth(n).locator("td").nth(2).inner_text()) for n in range(5)]
    margin = number(page.locator(".waterfall tfoot td").nth(2).inner_text())
    assert margin == pytest.approx(pair.margin, abs=6e-5)
    assert sum(differences) == pytest.approx(margin, abs=3e-4), "each is rounded to four decimals"
    for n, line in enumerate(pair.lines):
        cells = [number(rows.nth(n).locator("td").nth(k).inner_text()) for k in range(3)]
        assert rows.nth(n).locator("th").inner_text() == line.objective
        assert line.a is not None
        assert line.b is not None
        assert cells == pytest.approx([line.a.contribution, line.b.contribution, line.difference], abs=6e-5)
    ends = page.evaluate(
        "() => [...document.querySelectorAll('.waterfall .bar')].map((bar) => {"
        " const box = bar.parentNode.getBoundingClientRect(), own = bar.getBoundingClientRect();"
        " return [(own.left - box.left) / box.width, (own.right - box.left) / box.width]; })"
    )
    assert all(-1e-3 <= left <= right <= 1.003 for left, right in ends)
    first = page.locator(".ratings tbody tr").first
    assert pair.lines[0].a is not None
    shown = number(first.locator("td").first.inner_text())
    assert shown == pytest.approx(pair.lines[0].a.rating, abs=6e-2)


EDITS: list[dict[str, Any]] = [
    {"weights": {"objective-0": 2.0}, "mask": []},
    {"weights": {"objective-0": 0.0, "length": 3.0}, "mask": []},
    {"weights": {"length": 0.35, "objective-3": 1.7}, "mask": ["objective-1"]},
    {"weights": {}, "mask": ["objective-0", "length"]},
    {"weights": {"objective-1": 2.5}, "mask": ["objective-2", "objective-3"]},
    {"weights": {"objective-2": 3.0}, "mask": ["length"]},
]


def test_the_browser_weighs_as_the_server_does(page: Page) -> None:
    apart = page.evaluate(
        """async ([prompt, responses, edits]) => {
          const { weigh, asked } = await import("/page/weighing.js");
          const { ask } = await import("/page/ask.js");
          const mixture = (await ask("v1/page")).mixtures[0];
          const rows = (await ask("v1/rewards", { prompt, responses })).scores;
          const apart = [];
          for (const edit of edits) {
            const { scores } = await ask("v1/rewards", { prompt, responses, ...asked(edit, mixture.names) });
            rows.forEach((row, n) => {
              const here = weigh(row, mixture, edit);
              for (const key of ["reward", "base"]) apart.push(Math.abs(here[key] - scores[n][key]));
              for (const key of ["contributions", "weights", "coefficients"]) {
                for (const name of mixture.names) apart.push(Math.abs(here[key][name] - scores[n][key][name]));
              }
              apart.push(here.reward === row.reward ? 1 : 0);
            });
          }
          return apart;
        }""",
        [PROMPT, list(ANSWERS), EDITS],
    )
    assert len(apart) == len(EDITS) * 2 * 18
    assert max(apart) < 1e-5


DRAWN = {
    "both above": (9.0, 7.0),
    "both below": (-2.0, -9.0),
    "equal": (2.0, 2.0),
    "close": (2.0, 2.1),
    "apart": (1.0, 3.0),
    "one above": (5.0, 3.0),
}


@pytest.mark.parametrize("width", [1280, 360])
def test_no_mark_of_a_rating_hides_the_other(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    seen = page.evaluate(
        """async (drawn) => {
          const { ratings } = await import("/page/verdict.js");
          const names = Object.keys(drawn);
          const scale = { low: 0, high: 4, direction: "higher", meaning: "" };
          const scales = Object.fromEntries(names.map((name) => [name, scale]));
          const of = (side) => ({ ratings: Object.fromEntries(names.map((name) => [name, drawn[name][side]])) });
          const made = ratings(of(0), of(1), names, scales, [], "A", "B", { all: true, rated: true });
          document.querySelector("main").replaceChildren(...[made].flat());
          return names.map((name, n) => {
            const gauge = document.querySelectorAll(".gauge")[n];
            gauge.scrollIntoView({ block: "center" });
            return [...gauge.querySelectorAll(".dot")].map((dot) => {
              const { left, right, top, bottom } = dot.getBoundingClientRect();
              return document.elementFromPoint((left + right) / 2, (top + bottom) / 2) === dot;
            });
          });
        }""",
        DRAWN,
    )
    assert dict(zip(DRAWN, seen, strict=True)) == {name: [True, True] for name in DRAWN}


def test_what_would_turn_the_pair_is_what_the_library_finds(page: Page, backbone: Path) -> None:
    reward_model = model(backbone)
    pair = explain_pair(reward_model, chat(PROMPT, ANSWERS[0]), chat(PROMPT, ANSWERS[1]))
    flip = flip_explained(reward_model, pair)
    assert flip is not None
    ratings, weights = page.evaluate(
        """async ([prompt, responses]) => {
          const { ratingFlips, weightFlips, plain } = await import("/page/weighing.js");
          const { ask } = await import("/page/ask.js");
          const mixture = (await ask("v1/page")).mixtures[0];
          const task = (await ask("v1/models")).data[0].tasks[0];
          const objectives = Object.fromEntries(task.objectives.map((one) => [one.name, one]));
          const [a, b] = (await ask("v1/rewards", { prompt, responses })).scores;
          return [ratingFlips(a, b, a.reward - b.reward, mixture, objectives), weightFlips(a, b, mixture, plain())];
        }""",
        [PROMPT, list(ANSWERS)],
    )
    wanted = [one for one in flip.weights if one.factor is not None]
    assert [one["name"] for one in weights] == [one.objective for one in wanted]
    assert [one["factor"] for one in weights] == pytest.approx([one.factor for one in wanted], rel=1e-3, abs=1e-3)
    assert [one["drops"] for one in weights] == [one.drop_flips for one in wanted]
    best = {one.objective: one.best for one in flip.scores if one.best is not None}
    assert [one["name"] for one in ratings] == list(best)
    for one in ratings:
        move = best[one["name"]]
        assert (one["side"].upper(), one["reachable"]) == (move.answer, move.reachable)
        assert one["target"] == pytest.approx(move.target, rel=1e-3, abs=1e-3)


def test_sliders_and_switches_reweigh_at_once_and_agree_with_the_server(page: Page) -> None:
    before = score(page)
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url))
    page.get_by_label("Factor on the weight of length").fill("2.5")
    page.get_by_label("objective-0 counts").uncheck()
    after = page.locator(".verdict").first.inner_text()
    assert after != before
    assert sent == [], "no request"
    assert "with your weights" in page.locator(".edited").inner_text()
    line = page.locator(".command code").inner_text()
    assert '--scale "length=2.5" --drop "objective-0"' in line
    page.get_by_role("button", name="Check with the server").click()
    told = page.locator("[data-apart]")
    told.wait_for()
    assert "The server gives the same" in told.inner_text()
    assert float(told.get_attribute("data-apart") or "nan") < 1e-5
    for name in ("objective-1", "objective-3", "length"):
        page.get_by_label(f"{name} counts").uncheck()
    assert "No objective with a weight is left" in page.locator(".results .problem").first.inner_text()
    page.get_by_role("button", name="Reset all").click()
    assert page.locator(".verdict").first.inner_text() == before


def test_the_edit_is_saved_as_a_model(page: Page, saved: Path) -> None:
    score(page)
    name, button = page.get_by_label("Name of the new model"), page.get_by_role("button", name="Save as a model")
    told = page.locator(".save [role=status]")
    name.fill("mine")
    button.click()
    assert told.inner_text() == "Change a weight first."
    page.get_by_label("Factor on the weight of length").fill("0.5")
    name.fill("../mine")
    button.click()
    assert "letters, digits" in told.inner_text()
    name.fill("mine")
    button.click()
    told.get_by_text("Saved as").wait_for()
    manifest = json.loads((saved / "mine" / "manifest.json").read_text())
    assert manifest["provenance"]["edits"][0]["scale"] == {"length": 0.5}
    button.click()
    told.get_by_text("There is a 'mine' already.").wait_for()


def test_three_answers_are_ranked_and_any_two_compared(page: Page) -> None:
    page.get_by_role("button", name="Add an answer").click()
    page.get_by_label("Answer C", exact=True).fill("one two three")
    score(page)
    rewards = [number(text) for text in page.locator(".ranking tbody td:nth-child(3)").all_inner_texts()]
    assert rewards == sorted(rewards, reverse=True)
    assert len(rewards) == 3
    page.get_by_label("First of the compared pair: answer C").check()
    page.get_by_label("Second of the compared pair: answer A").check()
    heads = page.locator(".waterfall thead th").all_inner_texts()
    assert heads[1:4] == ["C", "A", "C − A"]
    page.get_by_role("button", name="Remove answer B").click()
    assert page.locator(".answers textarea").count() == 2


def test_texts_stay_texts(page: Page) -> None:
    score(page)
    page.get_by_role("button", name="Add an answer").click()
    page.get_by_label("Answer C", exact=True).fill(EVIL)
    score(page)
    page.locator(".ranking").get_by_text(EVIL).first.wait_for()
    page.get_by_role("button", name="Add to the review sheet").click()
    page.get_by_role("link", name="Review").click()
    page.locator(".text").get_by_text(EVIL).first.wait_for()
    page.get_by_role("link", name="Browse").click()
    page.locator(".question summary").first.click()
    page.locator(".question .text").get_by_text(EVIL).first.wait_for()
    assert page.evaluate("window.broken") is None
    assert page.locator("main script, main img").count() == 0


def test_empty_texts_are_named_and_nothing_is_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url))
    page.get_by_label("Answer B", exact=True).fill("  ")
    page.get_by_role("button", name="Score", exact=True).click()
    field = page.get_by_label("Answer B", exact=True)
    assert page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text() == "Write an answer, or remove it."
    assert field.get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == field.get_attribute("id")
    assert sent == []


def test_an_answer_that_is_too_long_is_named_and_the_others_are_scored(page: Page) -> None:
    page.get_by_label("Answer B", exact=True).fill("fine " * (MOST_TOKENS + 1))
    said = score(page)
    assert said.startswith("Answer A has the reward")
    problem = page.locator(".answers .problem").nth(1).inner_text()
    assert problem.startswith("Not scored:")
    assert re.search(rf"\b{MOST_TOKENS}\b", problem)
    assert "answer B" in page.locator(".input [role=alert]").inner_text()


def test_a_request_that_is_refused_is_told(chromium: Browser, backbone: Path) -> None:
    with (
        reward_server(lambda: model(backbone), max_body_bytes=1024) as small,
        opened(chromium, small.url) as page,
    ):
        page.get_by_label("Prompt", exact=True).fill("word " * 400)
        page.get_by_role("button", name="Score", exact=True).click()
        page.get_by_text("larger than 1024 bytes").wait_for()
        page.route("**/v1/rewards", lambda route: route.fulfill(status=502, body="<b>bad gateway</b>"))
        page.get_by_role("button", name="Score", exact=True).click()
        page.get_by_text("status 502 and no JSON").wait_for()


def test_a_server_that_has_gone_is_told(chromium: Browser, backbone: Path) -> None:
    with reward_server(lambda: model(backbone)) as short, opened(chromium, short.url) as page:
        page.context.set_offline(True)
        page.get_by_role("button", name="Score", exact=True).click()
        page.get_by_text("The server does not answer.").wait_for()
        page.context.set_offline(False)
        assert score(page).startswith("Answer")


def test_a_key_is_asked_for(chromium: Browser, backbone: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path / "keys", "me")
    keys: list[KnownKey] = list(read_known_keys(tmp_path / "keys"))
    with reward_server(lambda: model(backbone), keys=keys) as locked:
        context = chromium.new_context()
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(f"{locked.url}/")
        page.get_by_label("Key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("The key is missing or unknown.").wait_for()
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        assert score(page).startswith("Answer")
        assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        context.close()


def test_a_network_is_switched_by_the_server(chromium: Browser) -> None:
    with reward_server(two_tasks) as network, opened(chromium, network.url) as page:
        before = score(page)
        assert page.locator("input[type=range]").count() == 0
        assert "Not defined for this task" in page.locator(".card").all_inner_texts()[4]
        with page.expect_response("**/v1/rewards") as asked:
            page.locator(".weights input[type=checkbox]").first.uncheck()
        rows = asked.value.json()["scores"]
        margin = rows[0]["reward"] - rows[1]["reward"]
        page.locator(".edited").wait_for()
        assert f"by {abs(margin):.4f}" in page.locator(".verdict").first.inner_text() != before


def test_questions_are_browsed_and_scored(page: Page) -> None:
    page.get_by_role("link", name="Browse").click()
    page.locator(".question").first.wait_for()
    assert page.locator(".browse").get_by_text("1 to 8 of 8, the most certain first.").is_visible()
    page.get_by_label("Questions").select_option("disagreements")
    page.get_by_text("1 to 10 of 10").wait_for()
    page.get_by_label("Questions").select_option("all")
    page.get_by_role("button", name="Later").click()
    page.get_by_text("21 to 24 of 24").wait_for()
    assert "does not tell them apart" in page.locator(".browse .verdict").inner_text()
    page.get_by_role("button", name="Map the gate").click()
    page.locator("svg.map").wait_for()
    points = page.locator("svg.map title")
    assert points.count() == 24
    page.locator(".question summary").first.click()
    page.get_by_role("button", name="Score these with toy").first.click()
    page.locator(".waterfall").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value().startswith("question ")
    page.get_by_role("link", name="Browse").click()
    page.get_by_role("button", name="Score its explained pair").click()
    page.locator(".scoring").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == "of a run"


def test_the_two_principal_directions_are_those_of_the_rows(page: Page) -> None:
    rows = [[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 1.0, 1.0], [4.0, 1.0, 1.0]]
    first, second = page.evaluate(
        "async (rows) => { const { principal } = await import('/page/map.js'); return principal(rows); }", rows
    )
    assert [abs(x) for x in first["direction"]] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert [abs(x) for x in second["direction"]] == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert [first["share"], second["share"]] == pytest.approx([16 / 17, 1 / 17])
