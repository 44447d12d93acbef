"""The verbs on good input: what they print, what they write, and that it is what Python gives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, command
from facetrm.backbone.store import FeatureStore
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.cli import app as program
from facetrm.core.errors import DataError
from facetrm.data.records import conversation
from facetrm.explain.edits import edit
from facetrm.hub.load import load_model
from facetrm.recipes.run import Run
from tiny_runs import GOOD, PAIR, A, B, U, write_rows


def rows_of(said: Said) -> list[dict[str, Any]]:
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def json_of(said: Said) -> dict[str, Any]:
    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    assert said.code == 0, said.err
    return dict(json.loads(said.out, parse_constant=refuse))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "pairs.jsonl", [{**PAIR, "id": "first"}, {**PAIR, "chosen": [B], "rejected": [A]}])


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    rows = [{"id": "one", **GOOD, "extra": [1]}, {"messages": [U, B], "task": "code", "ratings": {"x": "ignored"}}]
    return write_rows(tmp_path / "answers.jsonl", rows)


# --- score


def test_scores_are_those_of_the_model_in_memory(tiny_run: Run, answers: Path) -> None:
    found = rows_of(command("score", tiny_run.folder, "--data", answers))
    own = tiny_run.fit.model.score([conversation(row) for row in ([U, A], [U, B])])
    assert found == [
        {"id": "one", "answer": 0, **own[0].to_dict()},
        {"id": "2", "answer": 0, **own[1].to_dict()},
    ]


def test_each_answer_of_a_preference_is_scored(tiny_run: Run, pairs: Path) -> None:
    found = rows_of(command("score", tiny_run.folder, "--data", pairs))
    assert [(row["id"], row["answer"]) for row in found] == [("first", 0), ("first", 1), ("2", 0), ("2", 1)]
    assert found[0]["reward"] == pytest.approx(found[3]["reward"], abs=1e-5)
    assert found[1]["reward"] == pytest.approx(found[2]["reward"], abs=1e-5)


def test_scores_go_to_a_file(tiny_run: Run, answers: Path, tmp_path: Path) -> None:
    said = command("score", tiny_run.folder, "--data", answers, "--out", tmp_path / "deep" / "scores.jsonl")
    assert said.out == f"2 scores in {tmp_path / 'deep' / 'scores.jsonl'}\n"
    written = [json.loads(line) for line in (tmp_path / "deep" / "scores.jsonl").read_text().splitlines()]
    assert written == rows_of(command("score", tiny_run.folder, "--data", answers))


def test_edits_are_those_of_python(tiny_run: Run, answers: Path) -> None:
    options = ("--drop", "fern-persona", "--scale", "birch-honesty=3", "--pin", "dahlia-fluency=0.25")
    found = rows_of(command("score", tiny_run.folder, "--data", answers, *options))
    model = load_model(tiny_run.folder)
    edited = edit(model, drop=["fern-persona"], scale={"birch-honesty": 3.0}, pin={"dahlia-fluency": 0.25})
    own = edited.score([conversation(row) for row in ([U, A], [U, B])])
    assert [{k: v for k, v in row.items() if k not in ("id", "answer")} for row in found] == [
        score.to_dict() for score in own
    ]
    plain = rows_of(command("score", tiny_run.folder, "--data", answers))
    assert found[0]["weights"]["fern-persona"] == 0.0
    assert found[0]["weights"]["dahlia-fluency"] == pytest.approx(0.25)
    assert found[0]["model"] == edited.hash != plain[0]["model"]
    assert found[0]["reward"] != plain[0]["reward"]


def test_one_objective_alone_ranks_by_itself(tiny_run: Run, answers: Path) -> None:
    name = "birch-empathy"
    found = rows_of(command("score", tiny_run.folder, "--data", answers, "--pin", f"{name}=1"))
    for row in found:
        assert row["weights"][name] == 1.0
        assert all(weight == 0.0 for other, weight in row["weights"].items() if other != name)


# --- explain


def test_the_margin_is_the_sum_of_the_differences(tiny_run: Run, pairs: Path) -> None:
    for row in ("first", "2"):
        shown = json_of(command("explain", tiny_run.folder, "--data", pairs, "--row", row, "--json"))
        total = math.fsum(line["difference"] for line in shown["lines"])
        assert abs(shown["margin"] - total) <= 1e-5
        rewards = [shown[side]["reward"] for side in ("a", "b")]
        assert abs(rewards[0] - rewards[1] - total) <= 1e-5
        assert sum(line["share"] for line in shown["lines"]) == pytest.approx(100.0)
        for side in ("a", "b"):
            one = shown[side]
            assert abs(one["reward"] - one["base"] - math.fsum(x["contribution"] for x in one["lines"])) <= 1e-5


def test_a_row_is_found_by_id_and_by_line(tiny_run: Run, pairs: Path) -> None:
    by_id, by_line, other = (
        json_of(command("explain", tiny_run.folder, "--data", pairs, "--row", row, "--json"))
        for row in ("first", "1", "2")
    )
    assert by_id == by_line != other
    assert other["margin"] == pytest.approx(-by_id["margin"], abs=1e-5)


def test_the_runs_own_pair_is_explained_by_default(tiny_run: Run) -> None:
    shown = json_of(command("explain", tiny_run.folder, "--json"))
    own = tiny_run.fit.model.score([tiny_run.explained.chosen, tiny_run.explained.rejected])
    assert (shown["a"]["reward"], shown["b"]["reward"]) == (own[0].reward, own[1].reward)
    assert shown["margin"] > 0, "a pair that the model orders rightly"
    assert {"scores", "weights"} <= shown["flip"].keys()


def test_the_terminal_view_of_a_pair(tiny_run: Run, pairs: Path) -> None:
    said = command("explain", tiny_run.folder, "--data", pairs)
    assert said.code == 0
    shown = json_of(command("explain", tiny_run.folder, "--data", pairs, "--json"))
    for text in ("river and candle", "is four", "is five", "P(A > B)", shown["lines"][0]["objective"], "flip"):
        assert text in said.out, text
    assert f"{shown['a']['reward']:.4f}" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_a_single_answer(tiny_run: Run, answers: Path) -> None:
    shown = json_of(command("explain", tiny_run.folder, "--data", answers, "--row", "one", "--json"))
    total = math.fsum(line["contribution"] for line in shown["lines"])
    assert abs(shown["reward"] - shown["base"] - total) <= 1e-5
    said = command("explain", tiny_run.folder, "--data", answers, "--row", "one")
    assert said.code == 0
    assert "is four" in said.out
    assert shown["lines"][0]["objective"] in said.out


@pytest.mark.parametrize("name", ["pairs", "answers"])
def test_a_page_stands_alone(name: str, tiny_run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "page.html"
    said = command("explain", tiny_run.folder, "--data", request.getfixturevalue(name), "--html", path)
    assert said.code == 0
    assert f"page: {path}" in said.err
    page = path.read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "<svg" in page
    assert "is four" in page
    assert not any(text in page for text in ("<script src", "<link", 'src="http', "@import"))


def test_the_whole_model(tiny_run: Run, pairs: Path) -> None:
    shown = json_of(command("explain", tiny_run.folder, "--data", pairs, "--overall", "--json"))
    weights = shown["overall"]["everyone"]["weights"]
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-4)
    assert set(weights) == set(tiny_run.fit.mixture.names)
    assert shown["ablation"]["pairs"] == 2
    said = command("explain", tiny_run.folder, "--data", pairs, "--overall")
    assert said.code == 0
    assert all(name in said.out for name in weights), "no name is cut"
    assert max(map(len, said.out.splitlines())) <= 80


def test_the_whole_model_on_single_answers(tiny_run: Run, answers: Path) -> None:
    shown = json_of(command("explain", tiny_run.folder, "--data", answers, "--overall", "--json"))
    assert shown["ablation"] is None
    assert shown["overall"]["decided"] is None
    assert command("explain", tiny_run.folder, "--data", answers, "--overall").code == 0


def test_edits_hold_for_explanations(tiny_run: Run, pairs: Path) -> None:
    shown = json_of(command("explain", tiny_run.folder, "--data", pairs, "--json", "--drop", "fern-persona"))
    line = next(line for line in shown["lines"] if line["objective"] == "fern-persona")
    assert line["difference"] == 0.0


# --- encode


def test_encode_writes_what_the_backbone_gives_and_reads_nothing_twice(
    tiny_run: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("encode", "--backbone", tiny_run.folder / "backbone", "--data", pairs, "--out", tmp_path / "features")
    said = command(*words, "--set", "token_budget=64", "--shard-rows", "1")
    assert said.code == 0
    assert said.out == f"2 conversations of 16 features in {tmp_path / 'features'}\n"
    store = FeatureStore(tmp_path / "features")
    own = tiny_run.fit.model.encoder.encode([conversation([U, A]), conversation([U, B])])
    found = store.features([conversation([U, A]), conversation([U, B])])
    assert float((own.response_NAD - found.response_NAD).abs().max()) < 1e-5

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(TransformerEncoder, "encode", refuse)
    assert command(*words, "--set", "token_budget=64").out == said.out


# --- the program itself


@pytest.mark.parametrize("verb", ["run", "encode", "score", "explain"])
def test_every_verb_has_help(verb: str) -> None:
    said = command(verb, "--help")
    assert said.code == 0
    assert f"facetrm {verb}" in said.out
    assert said.err == ""


ERRORS: dict[str, tuple[BaseException, int, str]] = {
    "of ours": (DataError("x is 3", place="a:1", fix="write 4"), 2, "facetrm: DataError: a:1: x is 3; write 4\n"),
    "of the system": (
        FileNotFoundError(2, "No such file or directory", "lost.jsonl"),
        2,
        "facetrm: lost.jsonl: No such file or directory; check the path, its permissions and the free space\n",
    ),
    "interrupted": (
        KeyboardInterrupt(),
        130,
        "facetrm: interrupted; nothing was kept, so the next run starts over\n",
    ),
    "of the program, with a screen's controls": (
        RuntimeError("\x1b[31mred\x00" + "x" * 900),
        1,
        "facetrm: internal error (RuntimeError: \\x1b[31mred\\x00" + "x" * 215 + "…" + "x" * 75 + "); "
        "please report it with the traceback that FACETRM_TRACEBACK=1 shows\n",
    ),
    "of the program": (
        RuntimeError("two\nlines"),
        1,
        "facetrm: internal error (RuntimeError: two lines); "
        "please report it with the traceback that FACETRM_TRACEBACK=1 shows\n",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_one_line_and_a_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, code, line = ERRORS[name]

    def fail(**settings: object) -> None:
        raise error

    monkeypatch.delenv(program.TRACEBACK, raising=False)
    monkeypatch.setattr(program, "app", fail)
    said = command("score")
    assert (said.code, said.out, said.err) == (code, "", line)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("run any.yaml", True),
        ("encode --out f", True),
        ("label --out f", True),
        ("score m --data d --out s.jsonl", True),
        ("score m --data d --out=s.jsonl", True),
        ("score m --data d", False),
        ("explain m", False),
        ("doctor m", False),
    ],
)
def test_an_interrupted_command_says_what_it_has_kept(line: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "app", interrupted)
    said = command(*line.split())
    words = "run the same command again to continue" if kept else "nothing was kept, so the next run starts over"
    assert (said.code, said.out, said.err) == (130, "", f"facetrm: interrupted; {words}\n")


def test_a_developer_can_ask_for_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**settings: object) -> None:
        raise RuntimeError("here")

    monkeypatch.setenv(program.TRACEBACK, "1")
    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(RuntimeError, match="here"):
        command("score")


def test_a_ranking_says_which_two_answers_are_compared(tiny_run: Run, tmp_path: Path) -> None:
    row = {"prompt": [U], "responses": [A, {**A, "content": "as poet ."}, B], "id": "three"}
    said = command("explain", tiny_run.folder, "--data", write_rows(tmp_path / "ranked.jsonl", [row]))
    assert said.code == 0, said.err
    assert "row three ranks 3 answers: comparing the first with the last" in said.err


def test_exact_scores_are_the_same_whatever_else_is_scored(tiny_run: Run, answers: Path, tmp_path: Path) -> None:
    lines = answers.read_text(encoding="utf-8").splitlines()
    together = rows_of(command("score", tiny_run.folder, "--data", answers, "--mode", "exact"))
    for line, expected in zip(lines, together, strict=True):
        (tmp_path / "one.jsonl").write_text(line + "\n", encoding="utf-8")
        (alone,) = rows_of(command("score", tiny_run.folder, "--data", tmp_path / "one.jsonl", "--mode", "exact"))
        assert alone == expected | {"id": alone["id"]}
        assert alone["mode"] == "exact"
    fast = rows_of(command("score", tiny_run.folder, "--data", answers))
    assert {row["mode"] for row in fast} == {"fast"}
    assert [row["reward"] for row in fast] == pytest.approx([row["reward"] for row in together], abs=1e-4)
    assert {row["model"] for row in fast} == {row["model"] for row in together}
    assert command("score", tiny_run.folder, "--data", answers, "--mode", "quick").code == 2
