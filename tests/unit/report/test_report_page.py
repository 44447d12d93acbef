"""The page of one explanation: well formed, self-contained, escaped, with every figure of the explanation in it."""

from __future__ import annotations

import re
import subprocess
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from shutil import which

import pytest

from explain_samples import NAMES, OBJECTIVES, pair, talk
from facetrm.core.errors import ConfigError, ModelError
from facetrm.data.objectives import Objective
from facetrm.explain.flip import flip_pair
from facetrm.explain.local import explain_score, explain_scores_pair
from facetrm.model.validity import Validity
from facetrm.report import canvas
from facetrm.report.charts import curves, heat_map, scatter, waterfall
from facetrm.report.page import page_view, render_page, write_page

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Collects tags, attributes and visible text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)


def check(html: str) -> Checker:
    """Parse a page; assert that it is balanced, alone in the world and labelled."""
    page = Checker()
    page.feed(html)
    page.close()
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    hashes = [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in page.scripts]
    assert re.findall(r"script-src ([^;]*)", policy or "") == hashes, "each page runs its own script and no other"
    assert not {"link", "iframe", "img", "object", "embed", "form", "base"} & set(tags)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in {"href", "src", "xlink:href", "srcset", "action"}:
                assert (value or "").startswith("#"), f"{tag} {name}={value}"
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)|javascript:", html)
    figures = [attributes for tag, attributes in page.tags if tag == "figure"]
    assert figures
    assert all(attributes.get("aria-label") for attributes in figures)
    assert tags.count("h1") == 1
    inner = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {link.removeprefix("#") for link in inner} <= {attributes.get("id") for _, attributes in page.tags}
    return page


def text_of(page: Checker) -> str:
    return " ".join(" ".join(page.words).split())


def test_a_pair_page_holds_every_figure() -> None:
    a, b, total = pair(3)
    found = explain_scores_pair(a, b, objectives=OBJECTIVES, beta=20.0)
    html = render_page(
        found,
        conversations=(talk("a riddle", "first"), talk("a riddle", "second")),
        flip=flip_pair(found, aggregator=total),
    )
    text = text_of(check(html))
    for line in found.lines:
        assert f"{line.objective}" in text
        assert f"{line.difference:+.4f}" in text
        assert f"{line.a.contribution:+.4f}" in text
        assert f"{line.b.contribution:+.4f}" in text
        assert f"{100 * line.a.weight:.1f}%" in text
    for part in (
        *found.facts,
        "0.4496",
        "0.2511",
        "m" * 64,
        "t" * 64,
        "What would flip it",
        "lower is better",
        "how helpful",
    ):
        assert part in text
    assert text.count("a riddle") == 1
    assert html == render_page(
        found,
        conversations=(talk("a riddle", "first"), talk("a riddle", "second")),
        flip=flip_pair(found, aggregator=total),
    )


@pytest.mark.slow
@pytest.mark.skipif(which("chromium") is None, reason="Chromium is not installed")
def test_sliders_weigh_the_pair_again(tmp_path: Path) -> None:
    """The page says what the model itself says, as it is and with one weight changed."""
    a, b, total = pair(3)
    found = explain_scores_pair(a, b, objectives=OBJECTIVES)
    flip = flip_pair(found, aggregator=total)
    html = render_page(found, flip=flip)
    first, second = (one.objective for one in page_view(found, flip=flip).by_effect[:2])
    moved = "const two = document.querySelectorAll('[data-reweigh] input'); two[0].value = 0.5; two[1].value = 2; "
    moved += "document.querySelector('[data-reweigh]').dispatchEvent(new Event('input'));"
    test = html.replace("</script>", moved + "</script>").replace("script-src", "x-src").replace("default-src", "y-src")
    for name, page, margin in (
        ("as it is", html, found.margin),
        ("moved", test, flip.reweighed({first: 0.5, second: 2.0})),
    ):
        path = tmp_path / f"{name}.html"
        path.write_text(page, encoding="utf-8")
        run = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
        shown = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout
        said = f">{'A' if margin > 0 else 'B'} is ahead by {abs(margin):.4f}"
        assert said in shown, name
        assert re.search(r'<section id="reweigh"[^>]*hidden', shown) is None, "sliders show where scripts run"
    assert re.search(r'<section id="reweigh"[^>]*hidden', html), "and are not there where they do not"


def test_gauges_stand_where_the_ratings_are() -> None:
    a, b, _ = pair(3)
    found = explain_scores_pair(a, b, objectives=OBJECTIVES)
    html = render_page(found)
    page = check(html)
    marks = [attributes for tag, attributes in page.tags if tag == "i" and "left" in (attributes.get("style") or "")]
    assert len(marks) == 2 * len(NAMES)
    for line, mark_a, mark_b in zip(found.lines, marks[::2], marks[1::2], strict=True):
        for side, mark in ((line.a, mark_a), (line.b, mark_b)):
            place = 100 * (side.rating - side.scale.low) / (side.scale.high - side.scale.low)
            assert mark["style"] == f"left: {min(100, max(0, place)):.1f}%"
            assert ("beyond" in mark["class"]) is not (0 <= place <= 100)


def test_one_answer_page_and_file(tmp_path) -> None:
    score, _, _ = pair(3)
    path = write_page(
        tmp_path / "one.html", explain_score(score), conversations=(talk("q", "an answer"),), title="Mine"
    )
    text = text_of(check(path.read_text(encoding="utf-8")))
    assert "Mine" in text
    assert "an answer" in text
    assert "scale not known" in text
    assert "What would flip it" not in text
    assert "Answer B" not in text


def test_two_prompts_are_both_shown_with_the_base_step() -> None:
    a, b, _ = pair(5, same_prompt=False)
    text = text_of(
        check(render_page(explain_scores_pair(a, b), conversations=(talk("one prompt", "x"), talk("two prompt", "y"))))
    )
    assert "one prompt" in text
    assert "two prompt" in text
    assert f"{a.base - b.base:+.4f}" in text


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>&amp; $x^2$ {{ 7*7 }} ]]> --> \u202e"


def test_text_of_users_is_never_markup() -> None:
    a, b, total = pair(3)
    names = {name: f"{name}{EVIL}" for name in NAMES}

    def renamed(score):
        return type(score)(
            **{
                key: {names[k]: v for k, v in value.items()} if isinstance(value, dict) else value
                for key, value in score.to_dict().items()
            }
            | {"task": EVIL, "template": EVIL}
        )

    objectives = [Objective(**{**o.model_dump(), "name": names[o.name], "meaning": EVIL}) for o in OBJECTIVES]
    found = explain_scores_pair(renamed(a), renamed(b), objectives=objectives, beta=1.0)
    html = render_page(
        found, conversations=(talk(EVIL, EVIL), talk(EVIL, EVIL)), flip=flip_pair(found, aggregator=total), title=EVIL
    )
    page = check(html)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "{{ 7*7 }}" in html
    assert text_of(page).count(" ".join(EVIL.split())) >= 5


def test_texts_must_fit_the_answers() -> None:
    a, b, _ = pair()
    with pytest.raises(ModelError, match="1 texts for 2 answers"):
        render_page(explain_scores_pair(a, b), conversations=(talk("q", "x"),))


def test_without_matplotlib_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    a, b, _ = pair()
    with pytest.raises(ConfigError, match=re.escape('pip install "facetrm[report]"')):
        render_page(explain_scores_pair(a, b))


def rectangles(svg: str) -> list[tuple[float, float]]:
    """Left and right ends of the filled rectangles of a drawing."""
    found = []
    for path in re.findall(r'<path d="([^"]*z\s*)" style="fill: (?!none)', svg):
        xs = [float(x) for x, _ in re.findall(r"([-\d.]+) ([-\d.]+)", path)]
        found.append((min(xs), max(xs)))
    return found


def test_waterfall_steps_begin_where_the_last_one_ended() -> None:
    rows = [("up", 0.3), ("down", -0.1), ("more", 0.2)]
    chart = waterfall(rows, start=None, end=("margin", 0.4), name="w", pair=True)
    for svg in (chart.wide, chart.narrow):
        up, down, more = rectangles(svg)
        assert up[1] == pytest.approx(down[1])
        assert down[0] == pytest.approx(more[0])
        assert dots(svg) == [pytest.approx(more[1], abs=0.02)]
        assert (down[1] - down[0]) / (up[1] - up[0]) == pytest.approx(1 / 3, rel=1e-3)
    assert chart.alt == "up +0.3000; down -0.1000; more +0.2000; margin +0.4000"


def test_steps_beyond_the_top_are_one_row() -> None:
    rows = [(f"step {n}", 0.1) for n in range(20)]
    chart = waterfall(rows, start=("base", 1.0), end=("reward", 3.0), top=5, name="w")
    assert "15 others +1.5000" in chart.alt
    assert len(rectangles(chart.wide)) == 6


def dots(svg: str) -> list[float]:
    """Centres of the points of a drawing, from left to right in the order drawn."""
    return [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', svg)]


def test_two_answers_are_drawn_on_one_scale_with_base_and_reward_as_points() -> None:
    a, b, _ = pair(3)
    view = page_view(explain_scores_pair(a, b, objectives=OBJECTIVES))
    for kind in ("wide", "narrow"):
        places = []
        for card in view.cards:
            drawing = getattr(card.chart, kind)
            base, reward = dots(drawing)
            steps = [line.contribution for line in card.explanation.lines]
            drawn = [right - left for left, right in rectangles(drawing)]
            assert len(drawn) == len(steps)
            scale = (reward - base) / (card.explanation.reward - card.explanation.base)
            assert drawn == pytest.approx([max(1.0, abs(scale * step)) for step in steps], abs=0.02)
            places += [(base, card.explanation.base, scale), (reward, card.explanation.reward, scale)]
        (x, value, scale), *others = places
        for there, other, same in others:
            assert same == pytest.approx(scale, rel=1e-3)
            assert there - x == pytest.approx(scale * (other - value), abs=0.02)


def test_a_step_of_nothing_is_not_as_long_as_a_step_of_something() -> None:
    small = waterfall(
        [("some", 0.0010), ("none", 0.0)], start=("base", 0.5), end=("reward", 0.501), name="w", ends=(0.4, 0.9)
    )
    large = waterfall([("some", 0.1)], start=("base", 0.5), end=("reward", 0.6), name="v", ends=(0.4, 0.9))
    [(a, b), (c, d)], [(e, f)] = rectangles(small.wide), rectangles(large.wide)
    assert b - a == pytest.approx(1.0, abs=0.3)
    assert d - c <= b - a
    assert f - e > 50 * (b - a)


def test_the_label_is_shown_on_the_answers_and_in_a_sentence() -> None:
    a, b, _ = pair(3)
    html = render_page(explain_scores_pair(a, b, preferred="B"), conversations=(talk("q", "x"), talk("q", "y")))
    text = text_of(check(html))
    assert "Answer A rejected by the label" in text
    assert "Answer B preferred by the label" in text
    assert "The label prefers B, but the model prefers A." in text
    bare = text_of(check(render_page(explain_scores_pair(a, b))))
    assert "label" not in bare


def test_an_objective_without_validity_is_marked_on_the_page() -> None:
    a, b, _ = pair(3)
    known = {NAMES[0]: Validity("spearman", 0.6, 0.5, 0.7, 400), NAMES[1]: Validity("spearman", 0.1, -0.1, 0.3, 400)}
    html = render_page(explain_scores_pair(a, b, objectives=OBJECTIVES, validity=known))
    text = text_of(check(html))
    assert "held out: Spearman 0.60 (0.50 to 0.70)" in text
    assert text.count("not predicted held out: Spearman 0.10 (-0.10 to 0.30)") == 1
    assert "held out" not in text_of(check(render_page(explain_scores_pair(a, b, objectives=OBJECTIVES))))


def test_drawings_use_the_pages_colours_and_are_reproducible() -> None:
    heat = heat_map(["code", "chat"], ["right", "kind"], [[0.75, 0.25], [0.1, 0.9]], name="h")
    assert "code: right 75%, kind 25%" in heat.alt
    drawings = [
        heat,
        heat_map(["t"], [f"objective-number-{n}" for n in range(19)], [[1 / 19] * 19], name="wide"),
        curves([("loss", [(0.0, 1.0), (1.0, 0.5)])], name="c", x_label="step", y_label="loss", best=1.0),
        scatter([("p", 0.0, 0.0), ("q", 1.0, 2.0)], name="s", x_label="x", y_label="y"),
    ]
    for drawing in drawings:
        for svg in (drawing.wide, drawing.narrow):
            assert "var(--" in svg
            assert not any(marker in svg for marker in canvas._VARIABLES)
            assert "font-family" not in svg
            assert "<style" not in svg
            assert "<metadata" not in svg
            assert set(re.findall(r"https?://[^\"]+", svg)) == {
                "http://www.w3.org/2000/svg",
                "http://www.w3.org/1999/xlink",
            }
    assert heat == heat_map(["code", "chat"], ["right", "kind"], [[0.75, 0.25], [0.1, 0.9]], name="h")


def test_constant_values_can_be_drawn() -> None:
    assert "0 0 860" in scatter([("p", 1.0, 1.0)], name="s", x_label="x", y_label="y").wide
    assert "0 0 860" in waterfall([], start=None, end=("margin", 0.0), name="w").wide


def test_long_labels_of_a_heat_map_keep_both_halves_on_a_narrow_page() -> None:
    names = [f"ultrafeedback-{word}" for word in ("overall_score", "instruction_following")]
    chart = heat_map(names, ["chat", "code", "safety"][:1], [[0.4], [0.6]], name="h")
    for part in ("overall_score", "instruction_following"):
        assert part in chart.narrow
