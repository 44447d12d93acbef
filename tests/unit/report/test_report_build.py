"""The report of a run: every section where there is data, none where there is none, the figures as they were given."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import pytest
from pydantic import ValidationError
from test_report_page import check, text_of

from adapter_models import PAIRS, two_tasks
from explain_samples import NAMES
from facetrm.core.statistics import Interval
from facetrm.explain.ask import explain_pair, flip_explained
from facetrm.explain.overall import GroupView
from facetrm.report.build import build_report, render_report
from facetrm.report.run_report import SYSTEM_TITLES, ExplainedPair, RunReport, VerdictPart
from facetrm.report.task_parts import Accuracy
from report_samples import TASKS, explained, run_report

SECTIONS = (
    "accuracy", "sources", "overall", "pair", "errors", "effect", "experts", "debiasing", "training", "recovery", "run",
)  # fmt: skip


def test_every_section_is_there_with_its_figures(tmp_path) -> None:
    run = run_report()
    path = build_report(run, tmp_path)
    assert path == tmp_path / "report.html"
    page = check(path.read_text(encoding="utf-8"))
    ids = [attributes.get("id") for _, attributes in page.tags]
    assert [name for name in ids if name in SECTIONS] == list(SECTIONS)
    text = text_of(page)
    expected = [
        "-7.3 points", "-0.0321", "12.7%",
        *SYSTEM_TITLES.values(), *NAMES, *TASKS, run.title, run.description, "steps: 500", "Numbers of a small run.",
        "not reached", "+0.310", "70.5%", "-0.5 points", "120.2", "1,204", "0.0240", "165 s", "m" * 64, "31.0%",
        "helpsteer 800 pairs", "A is ahead by 0.1985", "One pair explained", run.model, run.data,
    ]  # fmt: skip
    for part in expected:
        assert part in text, part
    for rows in run.pair_accuracy.values():
        for accuracy in rows.values():
            assert f"{100 * accuracy.value:.1f}%" in text
            assert f"{100 * accuracy.low:.1f}% to {100 * accuracy.high:.1f}%" in text
    assert "Not in this report" not in text


def test_a_model_without_weights_is_shown_by_its_shares() -> None:
    run = run_report()
    assert run.overall is not None

    def bare(views: dict[str, GroupView]) -> dict[str, GroupView]:
        return {name: replace(view, weights={}) for name, view in views.items()}

    overall = replace(
        run.overall,
        everyone=replace(run.overall.everyone, weights={}),
        by_task=bare(run.overall.by_task),
        by_source=bare(run.overall.by_source),
    )
    pair = explain_pair(two_tasks(), *PAIRS[0])
    flip = flip_explained(two_tasks(), pair)
    shown = ExplainedPair(explanation=pair, conversations=PAIRS[0], flip=flip)
    page = check(render_report(run.model_copy(update={"overall": overall, "pair": shown})))
    text = text_of(page)
    assert "Each expert's share of all |contributions|" in text
    assert "its vector is held at the reference" in text
    assert "Not defined for this model" in text
    assert f"{max(overall.everyone.contributions.values()):.4f}" in text
    for word in ("mean weight", "gate weight", "weight and penalty"):
        assert word not in text, word
    assert "weight and penalty" in text_of(check(render_report(run)))


def test_absent_parts_are_left_out_and_named() -> None:
    page = check_bare(RunReport(title="Bare", seconds={"all": 2.0}))
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert ids & set(SECTIONS) == {"run"}
    text = text_of(page)
    left_out = text.partition("Not in this report, because the run has no data for it: ")[2]
    for part in (
        "pair accuracy",
        "experts",
        "debiasing",
        "weight recovery",
        "what the model listens to",
        "one pair explained",
    ):
        assert part in left_out
    assert "time" not in left_out.replace("one pair", "")


def widths(html: str, anchor: str) -> list[tuple[float, float]]:
    """Return left end and width of each bar in a section, in percent of its axis."""
    part = html.partition(f'<section id="{anchor}"')[2].partition("</section>")[0]
    return [(float(a), float(b)) for a, b in re.findall(r'class="bar" style="left: ([\d.]+)%; width: ([\d.]+)%"', part)]


def test_bars_of_accuracy_start_at_chance_and_have_one_scale_for_both_kinds_of_labels() -> None:
    run = RunReport(
        title="x",
        pair_accuracy={
            "noisy": {"gate": Accuracy(value=0.6), "longer": Accuracy(value=0.45)},
            "true": {"gate": Accuracy(value=0.8), "longer": Accuracy(value=0.5)},
        },
    )
    html = render_report(run)
    page = check_bare(run)
    gate_noisy, gate_true, longer_noisy, longer_true = widths(html, "accuracy")
    chance = {attributes["style"] for _, attributes in page.tags if attributes.get("class") == "origin"}
    assert len(chance) == 1
    place = float(re.findall(r"[\d.]+", chance.pop())[0])
    assert gate_noisy[0] == gate_true[0] == longer_true[0] == pytest.approx(place)
    assert gate_true[1] == pytest.approx(3 * gate_noisy[1], rel=1e-3)
    assert longer_true[1] == 0
    assert sum(longer_noisy) == pytest.approx(place)
    assert "starts at chance (50%)" in text_of(page)


def test_verdict_model_and_data_come_before_everything_else_and_provenance_is_folded_at_the_end() -> None:
    verdict = VerdictPart(status="usable", statement="usable: fine.", warnings=("a limit",), advice=("more pairs",))
    html = render_report(run_report().model_copy(update={"verdict": verdict}))
    text = text_of(check(html))
    places = [
        text.index(part) for part in ("usable: fine.", "a limit", "5 linear experts and one gate", "800 held-out")
    ]
    assert places == sorted(places)
    assert places[-1] < text.index("pair accuracy of the gate")
    end = html[html.index('<section id="run"') :]
    assert end.index("<details") < end.index("Seeds") < end.index("steps: 500") < end.index("</details>")


def test_errors_and_ties_are_listed_with_label_certainty_and_the_largest_differences() -> None:
    run = run_report()
    text = text_of(check(render_report(run)))
    part = text[text.index("The most certain errors") :]
    assert "of 212 that the model orders wrongly" in part
    assert "90.0% for the rejected answer" in part
    assert "50.1% for the preferred answer" in part
    for row in (*run.errors, *run.ties):
        for word in (row.prompt, row.chosen, row.rejected):
            assert word in part
    assert f"{NAMES[0]} -0.3000 , {NAMES[1]} +0.1000 , {NAMES[2]} -0.0500" in part


def test_objectives_without_validity_are_marked_wherever_they_weigh() -> None:
    html = render_report(run_report())
    check(html)
    for anchor in ("overall", "experts"):
        part = html.partition(f'<section id="{anchor}"')[2].partition("</section>")[0]
        rows = re.findall(r'<th scope="row">(.*?)</th>', part)
        assert [NAMES[4] in row for row in rows if "not predicted" in row] == [True], anchor
    known = run_report()
    fine = tuple(row.model_copy(update={"measurable": True}) for row in known.objectives)
    assert "not predicted" not in render_report(known.model_copy(update={"objectives": fine}))


def test_objectives_are_in_the_order_of_what_they_decide() -> None:
    run = run_report()
    assert run.overall is not None
    assert run.overall.decided is not None
    by = dict(zip(NAMES, (0.01, 0.2, 0.05, 0.0, 0.1), strict=True))
    overall = replace(run.overall, decided=replace(run.overall.decided, by=by))
    html = render_report(run.model_copy(update={"overall": overall}))
    order = [NAMES[n] for n in (1, 4, 2, 0, 3)]
    for anchor in ("overall", "experts"):
        part = html.partition(f'<section id="{anchor}"')[2].partition("</section>")[0]
        assert [name for name in re.findall(r'<th scope="row">([\w-]+)', part) if name in NAMES] == order


def test_headings_are_in_order_and_the_contents_name_every_section() -> None:
    page = check(render_report(run_report()))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links[0] == "#content"
    assert [link.removeprefix("#") for link in links[1:]] == ["answer", *SECTIONS[1:]], "the accuracy is in the answer"
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(set(ids)) == len(ids)


def check_bare(run: RunReport):
    """A page without any chart: the parser's checks apart from the one for figures."""
    html = render_report(run)
    return check(html.replace("</main>", '<figure aria-label="none"></figure></main>'))


@pytest.mark.parametrize(
    "parts",
    [
        ("objectives", "overall", "length"),
        ("debias", "recovery", "config"),
        ("pair_accuracy", "training", "pair", "overall"),
        ("length", "debias", "by_source", "pair"),
    ],
)
def test_any_parts_may_be_absent(parts: tuple[str, ...]) -> None:
    run = run_report()
    empty = {part: RunReport.model_fields[part].get_default(call_default_factory=True) for part in parts}
    page = check(render_report(run.model_copy(update=empty)))
    left_out = text_of(page).partition("Not in this report, because the run has no data for it: ")[2]
    assert len(left_out.split(", ")) == len(parts)


def test_the_report_is_json_ready_and_reproducible() -> None:
    run = run_report()
    again = RunReport.model_validate(json.loads(json.dumps(run.to_dict(), allow_nan=False)))
    assert again == run
    assert render_report(again) == render_report(run)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        RunReport.model_validate({"title": "x", "pair_acuracy": {}})


def test_text_of_users_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    run = run_report().model_copy(
        update={
            "title": evil, "config": evil, "notes": (evil,), "versions": {evil: evil}, "seconds": {evil: 1.0},
            "by_source": {evil: {evil: Accuracy(value=0.5)}}, "pair": explained(evil, evil),
            "pair_accuracy": {evil: {evil: Accuracy(value=0.5)}},
        }
    )  # fmt: skip
    html = render_report(run)
    check(html)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 10


def test_unknown_systems_follow_the_known_ones() -> None:
    run = RunReport(title="x", pair_accuracy={"noisy": {"mine": Accuracy(value=0.6), "gate": Accuracy(value=0.7)}})
    text = text_of(check_bare(run))
    assert text.index("facetrm (gate)") < text.index("mine")


def test_accuracy_takes_a_bootstrap_interval() -> None:
    assert Accuracy.of(Interval(0.5, 0.4, 0.6), pairs=7) == Accuracy(value=0.5, low=0.4, high=0.6, pairs=7)


def test_a_pair_without_texts_and_flips() -> None:
    bare = ExplainedPair(explanation=explained().explanation)
    text = text_of(check(render_report(RunReport(title="x", pair=bare))))
    assert "A is ahead by 0.1985" in text
    assert "What would flip it" not in text
