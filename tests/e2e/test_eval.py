"""``facetrm eval`` from files to results: resumed, gated, compared, exported, and scored from stored rows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmark_samples import one_row, write_lines
from command_line import assert_refused, command
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.hub import load_model
from facetrm.recipes.evaluation import systems
from facetrm.recipes.run import Run
from tiny_runs import write_rows


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def llmbar(folder: Path, count: int = 6) -> Path:
    rows = [
        one_row("llmbar") | {"input": f"Say {n}.", "output_1": "x" * n, "output_2": "y" * 3, "label": 1 + n % 2}
        for n in range(1, count + 1)
    ]
    return write_lines(folder / "Natural" / "dataset.jsonl", rows)


def test_a_model_on_pairs_with_everything_written(tiny_run: Run, tmp_path: Path) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    said = command("eval", tiny_run.folder, "length", "--on", path, "--out", out, "--samples", 50)
    assert said.code == 0, said.err
    assert "LLMBar: 6 questions" in said.out
    assert "McNemar" in said.out
    results = read(out / "results.json")
    one = results["benchmarks"]["llmbar"]
    model, length = results["models"]
    assert length == "length"
    assert results["models"][model]["scored"] == 12
    assert results["models"][model]["tokens"] > 0
    figure = one["figures"]["total"]
    assert set(figure) == {model, "length", "longest", "shortest", "chance"}
    assert figure["length"]["value"] == figure["longest"]["value"] == pytest.approx(1 - figure["shortest"]["value"])
    assert one["counts"] == {"Natural": 6}
    assert one["files"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    rows = rows_of(out / "rows.jsonl")
    assert len(rows) == 12
    first = rows[0]
    assert first["model"] == model
    assert len(first["largest"]) == min(3, len(first["differences"]))
    assert sum(first["differences"].values()) == pytest.approx(first["scores"][0] - first["scores"][1], abs=1e-4)
    record = read(out / "every_eval_ever" / f"llmbar-{model}.json")
    lines = (out / "every_eval_ever" / f"llmbar-{model}_samples.jsonl").read_bytes()
    assert record["detailed_evaluation_results"]["checksum"] == hashlib.sha256(lines).hexdigest()
    assert record["detailed_evaluation_results"]["total_rows"] == len(lines.splitlines()) == 6
    scored = {r["evaluation_name"]: r["score_details"]["score"] for r in record["evaluation_results"]}
    assert scored["llmbar/total"] == figure[model]["value"]


def test_a_baseline_that_is_named_has_one_column(tmp_path: Path) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    said = command("eval", "shortest", "length", "random", "--on", path, "--out", out, "--samples", 20)
    assert said.code == 0, said.err
    assert said.out.splitlines()[1].split() == ["shortest", "length", "random", "chance"]
    results = read(out / "results.json")
    assert list(results["models"]) == ["shortest", "length", "random"]
    one = results["benchmarks"]["llmbar"]
    figure = one["figures"]["total"]
    assert set(figure) == {"shortest", "length", "random", "longest", "chance"}
    assert figure["longest"] == figure["length"]
    assert "shortest - length" in one["differences"]
    alone = command("eval", "shortest", "--on", path, "--out", tmp_path / "alone", "--samples", 20).out
    assert alone.splitlines()[1].split() == ["shortest", "longest", "chance"]
    stored = write_rows(tmp_path / "shortest.jsonl", rows_of(out / "rows.jsonl")[:6])
    said = command("eval", "shortest", stored, "--on", path, "--out", tmp_path / "both", "--samples", 20, "--json")
    assert list(json.loads(said.out)["models"]) == ["shortest", "shortest-2"], "a file of the same name is another one"


def test_a_second_command_replaces_the_results_and_keeps_the_scores(tmp_path: Path) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    for name, scored in (("length", 12), ("shortest", 12), ("length", 0)):
        assert command("eval", name, "--on", path, "--out", out, "--samples", 20).code == 0
        models = read(out / "results.json")["models"]
        assert {one: about["scored"] for one, about in models.items()} == {name: scored}
        assert {row["model"] for row in rows_of(out / "rows.jsonl")} == {name}


def test_a_killed_evaluation_scores_no_row_twice(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    monkeypatch.setattr(systems, "_BATCH", 3)
    plain = systems._scored
    seen: list[int] = []

    def dies(scorer: Any, conversations: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(conversations))
        return plain(scorer, conversations)

    arguments = ("eval", tiny_run.folder, "--on", path, "--samples", 50, "--out")
    monkeypatch.setattr(systems, "_scored", dies)
    said = command(*arguments, out)
    assert said.code == 130
    assert "run the same command again to continue" in said.err
    kept = (out / "scores.jsonl").read_bytes()
    assert kept.count(b"\n") == 6
    (out / "scores.jsonl").write_bytes(kept + b'{"model": "torn')
    monkeypatch.setattr(systems, "_scored", lambda *a: (seen.append(len(a[1])), plain(*a))[1])
    assert command(*arguments, out).code == 0
    assert seen == [3, 3, 3, 3], "the six stored answers were not scored again"
    again, fresh = read(out / "results.json"), tmp_path / "fresh"
    assert again["models"][next(iter(again["models"]))]["scored"] == 6
    assert command(*arguments, fresh).code == 0
    assert again["benchmarks"] == read(fresh / "results.json")["benchmarks"], "bit for bit those of one run"
    count = len(seen)
    assert command(*arguments, out).code == 0
    assert len(seen) == count, "nothing is left to score"


def test_another_model_or_row_is_scored(tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = llmbar(tmp_path / "a", count=4)
    more = llmbar(tmp_path / "b", count=6)
    assert command("eval", tiny_run.folder, "--on", first, "--out", out, "--samples", 20).code == 0
    said = command("eval", tiny_run.folder, "--on", more, "--out", out, "--samples", 20, "--json")
    models = json.loads(said.out)["models"]
    assert models[next(iter(models))]["scored"] == 4, "two new questions with two answers each"
    said = command("eval", tiny_run.folder, "--on", more, "--out", out, "--samples", 20, "--json", "--mode", "fast")
    models = json.loads(said.out)["models"]
    assert models[next(iter(models))]["scored"] in (0, 12), "scores of another mode are not reused"


def test_gates_give_code_3_and_say_why(tmp_path: Path) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    said = command("eval", "length", "--on", path, "--out", out, "--fail-under", "total=0.99", "--samples", 20)
    assert said.code == 3
    assert "llmbar/total is" in said.complaint
    said = command("eval", "length", "--on", path, "--out", out, "--fail-under", "llmbar/total=0.0", "--samples", 20)
    assert said.code == 0
    refused = command("eval", "length", "--on", path, "--out", out, "--fail-under", "totl=0.5")
    assert_refused(refused, "no figure 'totl'", "did you mean")
    assert_refused(command("eval", "length", "--on", path, "--out", out, "--fail-under", "total"), "FIGURE=VALUE")


def test_against_an_earlier_result(tmp_path: Path) -> None:
    path = llmbar(tmp_path)
    old, new = tmp_path / "old", tmp_path / "new"
    assert command("eval", "length", "--on", path, "--out", old, "--samples", 20).code == 0
    arguments = ("eval", "shortest", "--on", path, "--out", new, "--samples", 20, "--against", old)
    said = command(*arguments)
    before, now = (
        read(f / "results.json")["benchmarks"]["llmbar"]["figures"]["total"][s]["value"]
        for f, s in ((old, "length"), (new, "shortest"))
    )
    change = read(new / "results.json")["against"]
    assert change["flipped"]["to_wrong"] + change["flipped"]["to_right"] > 0
    assert {one["part"] for one in change["figures"]} == {"figures", "slices"}
    total = next(one for one in change["figures"] if one["name"] == "total")
    assert total["change"] == pytest.approx(now - before)
    assert said.code == 3, "a slice by length fell, whatever the total did"
    assert command(*arguments, "--tolerance", 1.0).code == 0
    assert_refused(command(*arguments[:-1], tmp_path / "none"), "no such folder")
    rows = rows_of(old / "rows.jsonl")
    write_rows(old / "rows.jsonl", [rows[0], rows[1] | {"differences": {"clear": "much"}}])
    assert_refused(command(*arguments), "rows.jsonl:2", "no row of 'facetrm eval'")


def test_the_objective_that_caused_a_flip(tmp_path: Path) -> None:
    path = llmbar(tmp_path, count=2)
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        assert command("eval", "length", "--on", path, "--out", folder, "--samples", 20).code == 0
    rows = rows_of(old / "rows.jsonl")
    for row in rows:
        row |= {"verdict": "right" if row["verdict"] == "wrong" else "wrong", "differences": {"kind": 2.0, "long": 1.0}}
    write_rows(old / "rows.jsonl", rows)
    from facetrm.recipes.evaluation.gates import compare_results

    now = [{**row, "differences": {"kind": 1.9, "long": -3.0}} for row in rows_of(new / "rows.jsonl")]
    before = read(old / "results.json")
    change = compare_results(read(new / "results.json"), now, old, before, tolerance=0.0)
    assert change["flipped"]["by_objective"] == {"long": 2}
    assert change["flipped"]["questions"][0]["change"] == pytest.approx(-4.0)


def test_stored_scores_give_the_same_result(tiny_run: Run, tmp_path: Path) -> None:
    rows = [one_row("rm-bench") | {"id": n, "prompt": f"Add {n}.", "chosen": ["a" * n, "b", "cc"]} for n in range(1, 5)]
    path, out = write_lines(tmp_path / "data.jsonl", rows), tmp_path / "out"
    assert command("eval", tiny_run.folder, "--on", path, "--out", out, "--samples", 20).code == 0
    model = next(iter(read(out / "results.json")["models"]))
    figures = read(out / "results.json")["benchmarks"]["rm-bench"]["figures"]
    official = out / "official" / "rm-bench" / model / "scores.json"
    for stored in (out / "rows.jsonl", official):
        said = command("eval", stored, "--on", path, "--out", tmp_path / "again", "--samples", 20, "--json")
        assert said.code == 0, said.err
        found = json.loads(said.out)["benchmarks"]["rm-bench"]["figures"]
        for name, row in figures.items():
            assert found[name][stored.stem] == row[model], name
    summary = read(out / "official" / "rm-bench" / model / "summary.json")
    assert summary["total_avg_acc"] == figures["total"][model]["value"]


def test_the_official_rm_bench_file_reads_back_when_its_files_share_ids(tmp_path: Path) -> None:
    for domain in ("chat", "code", "safety-refuse"):
        row = {key: value for key, value in one_row("rm-bench").items() if key != "domain"}
        write_lines(tmp_path / "files" / f"{domain}_filtered.json", [row | {"chosen": ["a", "bb", domain]}])
    line, out = ["--on", f"rm-bench={tmp_path / 'files'}", "--samples", 20], tmp_path / "out"
    assert command("eval", "length", *line, "--out", out).code == 0
    figures = read(out / "results.json")["benchmarks"]["rm-bench"]["figures"]
    official = out / "official" / "rm-bench" / "length" / "scores.json"
    said = command("eval", official, *line, "--out", tmp_path / "again", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)["benchmarks"]["rm-bench"]["figures"]
    assert {key: row["scores"] for key, row in found.items()} == {key: row["length"] for key, row in figures.items()}


def test_stored_rows_of_two_benchmarks_with_the_same_ids(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": "a" * n, "rejected": "bbb"} for n in range(1, 6)]
    one = write_rows(tmp_path / "one.jsonl", rows)
    two = write_rows(tmp_path / "two.jsonl", [row | {"chosen": "bbb", "rejected": row["chosen"]} for row in rows])
    line, out = ["--on", one, "--on", two, "--samples", 20], tmp_path / "out"
    assert command("eval", "length", *line, "--out", out).code == 0
    said = command("eval", out / "rows.jsonl", *line, "--out", tmp_path / "again", "--json")
    assert said.code == 0, said.err
    before, now = read(out / "results.json")["benchmarks"], json.loads(said.out)["benchmarks"]
    for name in ("one.jsonl", "two.jsonl"):
        assert now[name]["figures"]["total"]["rows"] == before[name]["figures"]["total"]["length"]
    assert command("eval", "length", "random", *line, "--out", out).code == 0
    said = command("eval", out / "rows.jsonl", *line, "--out", tmp_path / "again")
    assert_refused(said, "rows.jsonl:6", "holds scores of 'length' and of 'random'", "keep the lines of one model")


@pytest.mark.parametrize("name", ["rewardbench", "rewardbench2", "judgebench", "rmb"])
def test_the_official_files_read_back_as_scores(name: str, tmp_path: Path) -> None:
    rows = []
    for n in range(5):
        row = one_row(name)
        for key in ("id", "pair_id", "pair_uid"):
            if key in row:
                row[key] = f"{row[key]}-{n}"
        for key, value in row.items():
            if key in ("chosen", "response_A") and isinstance(value, str):
                row[key] = value + "x" * (10 * n)
        rows.append(row)
    path, out = write_lines(tmp_path / "data.jsonl", rows), tmp_path / "out"
    assert command("eval", "length", "--on", path, "--out", out, "--samples", 20).code == 0
    figures = read(out / "results.json")["benchmarks"][name]["figures"]
    files = [
        f for f in (out / "official" / name / "length").iterdir() if f.name not in ("results.json", "eval-set.json")
    ]
    assert len(files) == 1
    said = command("eval", files[0], "--on", path, "--out", tmp_path / "again", "--samples", 20, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)["benchmarks"][name]["figures"]
    assert {k: v[files[0].stem] for k, v in found.items()} == {k: v["length"] for k, v in figures.items()}


def test_the_official_rewardbench_file_has_the_rendered_texts(tiny_run: Run, tmp_path: Path) -> None:
    row = one_row("rewardbench")
    path, out = write_lines(tmp_path / "data.jsonl", [row]), tmp_path / "out"
    assert command("eval", "length", tiny_run.folder, "--on", path, "--out", out, "--samples", 20).code == 0
    (model,) = (name for name in read(out / "results.json")["models"] if name != "length")
    (written,) = rows_of(out / "official" / "rewardbench" / model / "scores.jsonl")
    encoder = load_model(tiny_run.folder, device="cpu").encoder
    assert isinstance(encoder, TransformerEncoder)
    for side in ("chosen", "rejected"):
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
        assert written[f"text_{side}"] == encoder.tokenizer.apply_chat_template(turns, tokenize=False)
        assert written[f"text_{side}"] != row[side]
    assert written["prompt"] == encoder.tokenizer.apply_chat_template(turns[:1], tokenize=False)
    (plain,) = rows_of(out / "official" / "rewardbench" / "length" / "scores.jsonl")
    assert plain["text_chosen"] == row["chosen"], "a system without a template"
    assert plain["prompt"] == [{"role": "user", "content": row["prompt"]}]


def test_the_official_file_of_rewardbench_2_has_the_rendered_texts_and_how_it_was_made(
    tiny_run: Run, tmp_path: Path
) -> None:
    row = one_row("rewardbench2")
    path, out = write_lines(tmp_path / "data.jsonl", [row]), tmp_path / "out"
    assert command("eval", "length", tiny_run.folder, "--on", path, "--out", out, "--samples", 20).code == 0
    (model,) = (name for name in read(out / "results.json")["models"] if name != "length")
    written = read(out / "official" / "rewardbench2" / model / "eval-set-scores.json")
    encoder = load_model(tiny_run.folder, device="cpu").encoder
    assert isinstance(encoder, TransformerEncoder)
    answers = [*row["chosen"], *row["rejected"]]
    asked = {"role": "user", "content": row["prompt"]}
    talks = [[asked, {"role": "assistant", "content": answer}] for answer in answers]
    assert written["text"] == [[encoder.tokenizer.apply_chat_template(turns, tokenize=False) for turns in talks]]
    made = {"model": model, "model_type": "Seq. Classifier", "chat_template": encoder.template_hash}
    assert {key: written[key] for key in made} == made
    plain = read(out / "official" / "rewardbench2" / "length" / "eval-set-scores.json")
    assert plain["text"] == [answers], "a system without a template"


def test_a_score_file_that_does_not_fit(tmp_path: Path) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    twice = write_rows(tmp_path / "twice.jsonl", [{"id": "1", "scores": [1, 0]}] * 2)
    assert_refused(command("eval", twice, "--on", path, "--out", out), f"{twice}:2", "occurs twice")
    other = write_rows(tmp_path / "other.jsonl", [{"id": "x", "scores": [1, 0]}])
    assert_refused(command("eval", other, "--on", path, "--out", out), "no row belongs to this benchmark")
    short = write_rows(tmp_path / "short.jsonl", [{"id": "1", "scores": [1, 0, 2]}])
    assert_refused(command("eval", short, "--on", path, "--out", out), "3 scores for 2 answers")
    word = write_rows(tmp_path / "word.jsonl", [{"id": "1", "scores": [1, "high"]}])
    assert_refused(command("eval", word, "--on", path, "--out", out), "'scores.1' is 'high'")
    none = write_rows(tmp_path / "none.jsonl", [{"text": "hi"}])
    assert_refused(command("eval", none, "--on", path, "--out", out), "no scores in the fields ['text']")
    some = write_rows(tmp_path / "some.jsonl", [{"id": "1", "scores": [1, 0]}, {"id": "2", "scores": [1, None]}])
    said = command("eval", some, "--on", path, "--out", out, "--samples", 20, "--json")
    one = json.loads(said.out)["benchmarks"]["llmbar"]
    assert one["systems"]["some"]["failed"] == 5
    assert one["figures"]["total"]["some"]["value"] == pytest.approx(1 / 6)


def test_ratings_give_rank_correlations(tiny_run: Run, tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"ask {n // 2}"},
                {"role": "assistant", "content": "w " * (n + 1)},
            ],
            "ratings": {"long": float(n), "flat": 1.0},
        }
        for n in range(24)
    ]
    path, out = write_rows(tmp_path / "rated.jsonl", rows), tmp_path / "out"
    said = command("eval", "length", tiny_run.folder, "--on", path, "--out", out, "--samples", 50)
    assert said.code == 0, said.err
    table = read(out / "results.json")["ratings"]["rated.jsonl"]["systems"]["length"]
    assert table["long"]["reward"]["spearman"]["value"] == pytest.approx(1.0)
    kendall = table["long"]["reward"]["kendall"]
    assert kendall["value"] == pytest.approx(1.0)
    assert kendall["low"] <= kendall["value"] <= kendall["high"]
    assert table["long"]["rows"] == 24
    assert table["long"]["prompts"] == 12
    assert table["flat"]["reward"]["spearman"]["value"] is None
    assert "24 rated answers" in said.out


def test_two_models_of_one_name_and_the_same_model_twice(tiny_run: Run, tmp_path: Path) -> None:
    path, out = llmbar(tmp_path), tmp_path / "out"
    assert_refused(command("eval", "length", "length", "--on", path, "--out", out), "asked for twice")
    stored = write_rows(tmp_path / "chance.jsonl", [{"id": str(n), "scores": [n, 0]} for n in range(1, 7)])
    said = command("eval", stored, "--on", path, "--out", out, "--samples", 20, "--json")
    assert list(json.loads(said.out)["models"]) == ["chance-2"], "a baseline's name is taken"


def test_only_one_process_writes_a_folder(tmp_path: Path) -> None:
    from facetrm.core.errors import StoreError
    from facetrm.core.locks import sole_writer

    path, out = llmbar(tmp_path), tmp_path / "out"
    out.mkdir()
    child = os.fork()
    if child == 0:
        with sole_writer(out, name=".lock", place=out, fix=""):
            (out / "held").touch()
            while not (out / "done").exists():
                pass
        os._exit(0)
    while not (out / "held").exists():
        pass
    try:
        assert_refused(command("eval", "length", "--on", path, "--out", out), "another folder (--out)")
    finally:
        (out / "done").touch()
        os.waitpid(child, 0)
    assert StoreError
