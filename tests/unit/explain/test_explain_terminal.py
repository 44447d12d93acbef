"""The terminal view: all is there, nothing is wider than asked, no text of a user reaches the terminal as code."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from explain_samples import NAMES, OBJECTIVES, pair, talk
from facetrm.core.clean import clean
from facetrm.explain.flip import flip_pair
from facetrm.explain.local import explain_score, explain_scores_pair
from facetrm.explain.terminal import AnswerView, PairView, shorten, show

PROMPT = "What is 17 + 25? [red]brackets[/red] \x1b[31mred\u202e"


def printed(view: AnswerView | PairView, width: int) -> str:
    file = io.StringIO()
    show(view, file=file, width=width)
    return file.getvalue()


def view(*, truncated: bool = False) -> PairView:
    a, b, total = pair(3)
    found = explain_scores_pair(replace(a, truncated=truncated), b, objectives=OBJECTIVES, beta=20.0)
    texts = (talk(PROMPT, "It is 42."), talk(PROMPT, "padding " * 200 + "the end"))
    return PairView(found, texts, flip_pair(found, aggregator=total))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_pair_is_whole_plain_and_fits(width: int) -> None:
    text = printed(view(), width)
    assert all(len(line) <= width for line in text.splitlines())
    for name in NAMES:
        assert name[:12] in text
    for part in (
        "A is ahead by 0.1985",
        "P(A > B) = 0.98",
        "+0.1985",
        "0.4496",
        "0.2511",
        "1..10",
        "What would flip it",
    ):
        assert part in " ".join(text.split())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]brackets[/red]" in text
    assert "characters ...]" in text


def test_wide_terminals_show_the_answers_side_by_side() -> None:
    assert any("─ A ─" in line and "─ B ─" in line for line in printed(view(), 120).splitlines())
    assert not any("─ A ─" in line and "─ B ─" in line for line in printed(view(), 80).splitlines())


def test_bars_lead_from_zero_to_the_margin() -> None:
    lines = printed(view(), 80).splitlines()
    bars = {line.split()[0]: line for line in lines if "█" in line}
    assert bars["margin"].count("█") == max(line.count("█") for line in bars.values())
    first = bars["helpsteer-helpfulness"]
    assert first.index("█") == bars["margin"].index("█")
    assert bars["helpsteer-verbosity"].rindex("█") == first.rindex("█")


def test_a_cut_answer_says_so() -> None:
    assert "TRUNCATED" in printed(view(truncated=True), 80)
    assert "TRUNCATED" not in printed(view(), 80)


def test_one_answer() -> None:
    score, _, _ = pair(3)
    text = printed(AnswerView(explain_score(score, objectives=OBJECTIVES), talk(PROMPT, "It is 42."), top=2), 80)
    assert "shares  helpsteer-helpfulness 41%, judge-errors 37%" in text
    assert "3 others" in text
    assert "+0.4496" in text


def test_two_prompts_show_the_base_line() -> None:
    a, b, _ = pair(5, same_prompt=False)
    text = printed(PairView(explain_scores_pair(a, b), (talk("one", "x"), talk("two", "y"))), 80)
    assert f"{a.base - b.base:+.4f}" in text
    assert "user: one" in text
    assert "user: two" in text


def test_clean_and_shorten() -> None:
    assert clean("a\x1b[0m\tb\nc\u2066") == "a\ufffd[0m\tb\nc\ufffd"
    assert shorten("short", 10) == "short"
    cut = shorten("a" * 500 + "z" * 500, 90)
    assert cut.startswith("a" * 60 + "\n[... 910 characters ...]\n")
    assert cut.endswith("z" * 30)
