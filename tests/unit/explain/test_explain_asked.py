"""Questions in conversations: edits show themselves, a scalar reward has no scale, notebooks and pages are safe."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from facetrm.cli.explained import print_overall, print_row
from facetrm.core.errors import ModelError
from facetrm.core.html import html_table
from facetrm.core.shown import show_fixed
from facetrm.data.read.conversations import ScoringRow, conversations_in_memory
from facetrm.data.records import Conversation, Message
from facetrm.data.world import World
from facetrm.doctor.findings import Diagnosis, Finding
from facetrm.doctor.terminal import show_diagnosis
from facetrm.explain.ask import explain_local, explain_pair, flip_explained
from facetrm.explain.before_after import before_after
from facetrm.explain.edited import unedited
from facetrm.explain.edits import edit
from facetrm.explain.local import explain_score
from facetrm.explain.overall import FEW_PROMPTS, MIN_ANSWERS, explain_overall
from facetrm.explain.table import WholeView
from facetrm.explain.terminal import AnswerView, PairView, show
from facetrm.hub.load import load_model
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.show import show_whole
from facetrm.report.page import render_page
from facetrm.report.whole import write_whole_page
from planting import planted
from reward_models import QUESTIONS, mixture, model

HOSTILE = "[/INST] [red]x[/red] [v2] <script>alert(1)</script>"


def talk(prompt: str, answer: str) -> Conversation:
    return (Message(role="user", content=prompt), Message(role="assistant", content=answer))


A, B = talk("a question", "one answer"), talk("a question", "another , longer answer")


@pytest.fixture
def changed() -> RewardModel:
    return edit(model(), drop=["test-wordy"], scale={"test-honest": 2.0})


# --- conversations in


def test_the_probability_of_a_pair_is_never_missing() -> None:
    for ours in (model(), edit(model(), drop=["test-wordy"])):
        pair = explain_pair(ours, A, B)
        assert pair.probability is not None
        assert pair.margin == pytest.approx(ours.score([A])[0].reward - ours.score([B])[0].reward, abs=1e-6)
        assert flip_explained(ours, pair) is not None


# --- edits


def test_an_edited_model_says_so_in_each_explanation(changed: RewardModel) -> None:
    plain = model()
    local = explain_local(changed, A)
    (before,), (after,) = plain.score([A]), changed.score([A])
    made = {edited.objective: edited for edited in local.edits}
    assert {name: e.change for name, e in made.items()} == {"test-honest": "weight times 2", "test-wordy": "dropped"}
    assert made["test-wordy"].weight_before == pytest.approx(before.weights["test-wordy"])
    assert made["test-wordy"].weight_after == after.weights["test-wordy"] == 0.0
    assert local.unedited == pytest.approx(before.reward, abs=1e-6)
    assert any("wordy dropped" in fact for fact in local.facts)
    pair = explain_pair(changed, A, B)
    assert [fact for fact in pair.facts if fact.startswith(("Edited", "Without the edits"))]
    assert json.loads(json.dumps(pair.to_dict()))["a"]["edits"][0]["objective"] == "test-honest"
    assert "wordy dropped" in render_page(pair)
    assert "wordy dropped" in render_page(local)


def test_every_weight_before_and_after_adds_up_on_page_terminal_and_json(changed: RewardModel) -> None:
    plain, dropped = model(), edit(model(), drop=["test-wordy"])
    for ours, total in ((dropped, 1.0), (changed, None)):
        local = explain_local(ours, A)
        view = before_after(local)
        assert view is not None
        assert view.weights is not None
        assert view.weights[0] == pytest.approx(1.0, abs=1e-5)
        assert total is None or view.weights[1] == pytest.approx(total, abs=1e-5)
        assert bool(view.facts) is (total is None)  # twice a weight leaves the others as they are
        for side, score in enumerate((plain.score([A])[0], ours.score([A])[0])):
            assert {r.objective: r.contributions[side] for r in view.rows} == pytest.approx(
                score.contributions, abs=1e-6
            )
            assert view.base[side] + sum(r.contributions[side] for r in view.rows) == pytest.approx(
                score.reward, abs=1e-5
            )
        assert [row.change != "" for row in view.rows] == sorted([row.change != "" for row in view.rows], reverse=True)
        text = " ".join(shown(AnswerView(local)).split())
        page = render_page(local)
        for words in ("Before and after the edits", "sum: reward", f"{view.weights[1]:.1%}"):
            assert words in page
        assert "Edited model before and after the edits; the sums add up" in text
        assert f"{view.weights[0]:.1%} {view.weights[1]:.1%}" in text
        written = json.loads(json.dumps(local.to_dict()))
        assert sum(line["weight"] for line in written["before"]["lines"]) == pytest.approx(1.0, abs=1e-5)
        assert written["before"]["reward"] == written["unedited"] == pytest.approx(view.reward[0])
        for row in view.rows:
            assert show_fixed(row.contributions[0], signed=True) in page
    assert before_after(explain_local(plain, A)) is None
    assert "Before and after" not in render_page(explain_local(plain, A))


def test_a_saved_edit_is_still_told_when_the_model_is_loaded(changed: RewardModel, tmp_path: Path) -> None:
    changed.save(tmp_path / "edited")
    again = RewardModel.load(tmp_path / "edited", load_encoder=lambda _: changed.encoder)
    assert explain_local(again, A).edits == explain_local(changed, A).edits != ()
    assert before_after(explain_local(again, A)) == before_after(explain_local(changed, A))


def test_the_label_of_a_row_is_told_and_the_order_of_candidates_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"prompt": "why", "chosen": "yes", "rejected": "no no"}
    (labelled,) = conversations_in_memory([texts])
    answers = [{"role": "assistant", "content": text} for text in ("yes", "no no")]
    candidate_texts = {"prompt": [{"role": "user", "content": "why"}], "responses": answers}
    (candidates,) = conversations_in_memory([candidate_texts])
    assert (labelled.labelled, candidates.labelled) == (True, False)
    print_row(model(), labelled, html=None, as_json=True)
    assert json.loads(capsys.readouterr().out)["preferred"] == "A"
    print_row(model(), labelled, html=None, as_json=False)
    assert "The label prefers A" in " ".join(capsys.readouterr().out.split())
    print_row(model(), candidates, html=None, as_json=False)
    assert "label" not in capsys.readouterr().out


def test_a_model_without_edits_says_nothing_of_any() -> None:
    plain = model()
    assert unedited(plain) is plain
    assert unedited(edit(plain, drop=["test-wordy"])).score([A])[0].reward == plain.score([A])[0].reward
    assert explain_local(plain, A).edits == explain_local(plain, A).facts == ()
    assert "Edited" not in " ".join(explain_pair(plain, A, B).facts)


def test_the_terminal_shows_the_edits(changed: RewardModel, capsys: pytest.CaptureFixture[str]) -> None:
    print_row(changed, ScoringRow("1", (A, B), "rows:1"), html=None, as_json=False)
    assert "wordy dropped" in " ".join(capsys.readouterr().out.split())


# --- a scalar reward


def test_a_scalar_reward_has_no_scale_and_no_rating_to_flip(tmp_path: Path) -> None:
    folder = planted.write_classifier(tmp_path / "m")
    scalar = load_model(folder, device="cpu")
    row = next(World().preferences(1, part="test"))
    pair = explain_pair(scalar, row.chosen, row.rejected)
    assert [line.a.scale for line in pair.lines if line.a] == [None]
    assert flip_explained(scalar, pair) is None
    assert pair.probability is None or pair.beta is not None
    said = " ".join(shown(PairView(pair, flip=flip_explained(scalar, pair))).split())
    assert "0..1" not in said
    assert "within its scale" not in said
    assert "scale" not in said.replace("on its source's scale", "")


# --- the whole model


def overall(ours: RewardModel, answers: int) -> WholeView:
    chats = [talk(f"question {n}", "word " * (n + 1)) for n in range(answers)]
    return WholeView(explain_overall(ours, ours.features(chats)))


@pytest.mark.parametrize(("answers", "marked"), [(FEW_PROMPTS - 1, True), (FEW_PROMPTS, False)])
def test_correlations_of_few_prompts_are_marked(answers: int, marked: bool) -> None:
    view = overall(model(), answers)
    assert any(f"rest on {answers} prompts" in fact for fact in view.facts) is marked
    assert re.search(r"[+-]\d\.\d\d \([+-]\d\.\d\d to [+-]\d\.\d\d\)", " ".join(shown(view).split()))


def test_no_correlation_is_given_for_a_few_answers() -> None:
    assert set(overall(model(), MIN_ANSWERS - 1).overall.length.values()) == {None}
    assert any(value is not None for value in overall(model(), MIN_ANSWERS).overall.length.values())


def test_the_whole_model_is_written_as_a_page(
    changed: RewardModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ScoringRow(str(n), (talk(f"question {n}", "yes"), talk(f"question {n}", "no no")), "rows") for n in range(3)
    ]
    print_overall(changed, rows, html=tmp_path / "whole.html", as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["edits"] == {"test-honest": "weight times 2", "test-wordy": "dropped"}
    assert "page:" in printed.err
    page = (tmp_path / "whole.html").read_text(encoding="utf-8")
    assert "wordy dropped" in page
    for name in ("test-helpful", "test-honest", "test-wordy"):
        assert f'<th scope="row">{name}</th>' in page
    assert changed.hash in page


# --- notebooks and hostile text


def test_notebooks_show_tables_with_all_text_escaped(changed: RewardModel) -> None:
    (score,) = changed.score([A])
    for shown_in in (score, explain_local(changed, A), explain_pair(changed, A, B)):
        html = shown_in._repr_html_()
        assert html.count("<tr>") == 5
        assert "test-wordy" in html
    assert "<script>" not in html_table(HOSTILE, [HOSTILE], [[HOSTILE]], notes=[HOSTILE])
    assert "&lt;script&gt;" in html_table(HOSTILE, [], [], notes=[])


def shown(view: object) -> str:
    out = StringIO()
    show(view, file=out, width=200)  # type: ignore[arg-type]
    return out.getvalue()


def hostile_model() -> RewardModel:
    plain = model()
    return RewardModel(plain.encoder, {"all": mixture(0, (HOSTILE, "honest", "wordy"))})


def test_markup_in_foreign_names_is_text_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    ours = edit(hostile_model(), scale={f"test-{HOSTILE}": 2.0})
    pair = explain_pair(ours, talk(HOSTILE, HOSTILE), talk(HOSTILE, "b"))
    said = shown(PairView(pair, (talk(HOSTILE, HOSTILE), talk(HOSTILE, "b")), flip_explained(ours, pair)))
    assert said.count("[/INST] [red]x[/red] [v2]") >= 3
    assert "[/INST]" in shown(AnswerView(explain_local(ours, A), A))
    show_whole(WholeView(overall(ours, 3).overall, edits={HOSTILE: "dropped"}))
    assert "[/INST]" in capsys.readouterr().out
    finding = Finding("template-drops", "error", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    show_diagnosis(Diagnosis(f"/models/{HOSTILE}", "other", 0, 0.01, (finding,), skipped=(HOSTILE,)))
    assert capsys.readouterr().out.count("[/INST]") >= 6


def test_markup_in_foreign_names_is_text_on_pages(tmp_path: Path) -> None:
    ours = hostile_model()
    pages = [
        render_page(explain_pair(ours, talk(HOSTILE, HOSTILE), talk(HOSTILE, "b"))),
        write_whole_page(tmp_path / "w.html", [overall(ours, 3)], model=HOSTILE).read_text(encoding="utf-8"),
    ]
    for page in pages:
        assert "<script" not in page
        assert "[/INST]" in page


def test_a_score_that_does_not_add_up_is_refused() -> None:
    (score,) = model().score(QUESTIONS[:1])
    with pytest.raises(ModelError, match="not base plus contributions"):
        explain_score(replace(score, reward=score.reward + 1.0))
