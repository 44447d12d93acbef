"""The report of evaluations: merging, errors, escaping, and the figures against independent calculations."""

from __future__ import annotations

import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit_samples import Parts, luck, random_pairs
from facetrm.core.errors import ConfigError, DataError
from facetrm.evaluate.audit import AuditConfig, audit
from facetrm.recipes.evaluation.calibrated import calibrated
from facetrm.recipes.evaluation.gates import read_earlier
from facetrm.recipes.evaluation.gathered import gather_results
from facetrm.recipes.evaluation.named import Loading
from facetrm.recipes.evaluation.reported import report_on
from facetrm.recipes.evaluation.run import EvalRequest, evaluate_systems
from facetrm.report.evaluated.answer import answer_sentences, signed
from facetrm.report.evaluated.build import render_evaluation
from facetrm.report.evaluated.contrast import contrasts, shares_by_task
from facetrm.report.evaluated.markdown import escaped
from facetrm.report.evaluated.measured import BenchmarkPart, JudgedQuestion, MeasuredFigure

EVIL = "<script>alert(1)</script>"
AUDITED = AuditConfig(samples=100, edits=("pad", "respace"), max_length_correlation=0.2)


class Page(HTMLParser):
    """Collects tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def evaluate(out: Path, models: list[str], *, file: Path, seed: int = 0) -> Path:
    request = EvalRequest(models, [str(file)], out, Loading(folder=out, seed=seed), samples=20, seed=seed)
    evaluate_systems(request)
    return out


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 36 preferences whose right answer is longer in 27 of them."""
    path = tmp_path_factory.mktemp("rows") / "mine.jsonl"
    rows = [
        {
            "prompt": f"question {n} {EVIL}",
            "chosen": f"right {EVIL}" + (" and long" * 5 if n % 4 else ""),
            "rejected": f"wrong and longer {EVIL}",
        }
        for n in range(36)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    return evaluate(tmp_path_factory.mktemp("one"), ["length", "shortest"], file=file)


def copied(folder: Path, to: Path) -> tuple[Path, dict[str, Any]]:
    to.mkdir()
    for name in ("results.json", "rows.jsonl"):
        (to / name).write_bytes((folder / name).read_bytes())
    return to, json.loads((to / "results.json").read_text())


def test_three_files_and_the_answer(folder: Path, tmp_path: Path) -> None:
    done = report_on([folder], out=tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["report.html", "report.json", "report.md"]
    content = json.loads((tmp_path / "made" / "report.json").read_text())
    assert content == json.loads(json.dumps(done.content))
    assert content["benchmarks"]["mine.jsonl"]["figures"]["total"]["length"]["value"] == 0.75
    assert content["answer"][0].startswith("length is ahead of shortest on mine.jsonl by 50.0 points")
    assert "longest" not in content["answer"][0], "which is length"
    table = (tmp_path / "made" / "report.md").read_text()
    assert re.search(r"^\|[^|]*\| length \| shortest \| chance \|$", table, re.MULTILINE)
    assert re.search(r"^\| total \| 75\.0% .* \| 25\.0% ", table, re.MULTILINE)


def test_nothing_is_loaded_and_user_text_is_escaped(folder: Path, tmp_path: Path) -> None:
    evil, results = copied(folder, tmp_path / "evil")
    text = json.dumps(results).replace('"length', json.dumps(EVIL)[:-1])
    (evil / "results.json").write_text(text)
    rows = [json.loads(line) for line in (evil / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["model"] = row["model"].replace("length", EVIL)
        row["differences"] = {EVIL: 1.0}
        row["id"] += EVIL
    (evil / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = render_evaluation(gather_results([evil]))
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert html.count("&lt;script&gt;") > 10
    loaded = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href") and not str(v).startswith("#")]
    assert loaded == []
    assert EVIL not in render_evaluation(gather_results([folder]))
    assert escaped(f"{EVIL}|`x`\n# y") == r"\<script\>alert(1)\</script\>\|\`x\` \# y"


def test_folders_with_the_same_rows_are_merged(folder: Path, file: Path, tmp_path: Path) -> None:
    other = evaluate(tmp_path / "other", ["random"], file=file)
    report = gather_results([folder, other])
    (part,) = report.benchmarks
    assert part.models == ("length", "shortest", "random")
    found = part.difference("length", "random")
    a, b = part.total("length"), part.total("random")
    assert found is not None
    assert a is not None
    assert b is not None
    assert found == (MeasuredFigure(a.value - b.value, a.low - b.high, a.high - b.low), False)
    assert "a wide bound" not in answer_sentences(gather_results([folder]))[0]
    assert len(report.made) == 2


def test_other_rows_stand_apart(folder: Path, tmp_path: Path) -> None:
    changed, results = copied(folder, tmp_path / "changed")
    results["benchmarks"]["mine.jsonl"]["files"][0]["sha256"] = "0" * 64
    (changed / "results.json").write_text(json.dumps(results))
    report = gather_results([folder, changed])
    assert [part.name for part in report.benchmarks] == ["mine.jsonl", "mine.jsonl (changed, 2)"]
    assert report.notes == ("mine.jsonl in changed has other rows, so it stands apart.",)
    assert "so the two are not compared" in render_evaluation(report)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("benchmarks", "mine.jsonl", "figures", "total", "length", "low"), "x", "figures.total.length.low' is 'x'"),
        (("benchmarks", "mine.jsonl", "figures", "total", "length"), 3, "figures.total.length' is no object"),
        (("benchmarks", "mine.jsonl", "slices"), None, "no key 'benchmarks.mine.jsonl.slices'"),
        (("date",), None, "no key 'date'"),
        (("benchmarks",), [], "key 'benchmarks' is no object"),
        (("benchmarks", "mine.jsonl", "files"), [{}], "benchmarks.mine.jsonl.files' is no list of files"),
        (("benchmarks", "mine.jsonl", "files"), [{"sha256": ""}], "benchmarks.mine.jsonl.files' is no list of files"),
        (("benchmarks", "mine.jsonl", "rows"), "many", "benchmarks.mine.jsonl.rows' is 'many', no whole number"),
        (("benchmarks", "mine.jsonl", "counts"), {"a": "b"}, "mine.jsonl.counts.a' is 'b', no whole number"),
        (("benchmarks", "mine.jsonl", "published_counts"), 4, "mine.jsonl.published_counts' is no object"),
        (("benchmarks", "mine.jsonl", "levels"), [], "benchmarks.mine.jsonl.levels' is no object"),
        (("benchmarks", "mine.jsonl", "missing"), 3, "benchmarks.mine.jsonl.missing' is no list of names"),
        (("benchmarks", "mine.jsonl", "systems", "length"), 4, "mine.jsonl.systems.length' is no object"),
        (("benchmarks", "mine.jsonl", "systems", "length", "ties"), None, "systems.length.ties'"),
        (("models",), {}, "key 'models' is empty"),
        (("ratings",), [1], "key 'ratings' is no object"),
    ],
)
def test_a_broken_result_is_named_by_its_key(
    folder: Path, tmp_path: Path, path: tuple[str, ...], value: object, said: str
) -> None:
    broken, results = copied(folder, tmp_path / "broken")
    held = results
    for key in path[:-1]:
        held = held[key]
    if value is None:
        del held[path[-1]]
    else:
        held[path[-1]] = value
    (broken / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=re.escape(said)):
        gather_results([broken])
    with pytest.raises(DataError, match=re.escape(said)):
        read_earlier(broken, out=tmp_path, benchmarks=["mine.jsonl"])


def rated_rows(path: Path, count: int = 24) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"ask {n // 2}"},
                {"role": "assistant", "content": "w " * (n + 1)},
            ],
            "ratings": {"long": float(n), EVIL: float(-n % 7)},
        }
        for n in range(count)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_ratings_have_a_table_and_are_merged(tmp_path: Path) -> None:
    path = rated_rows(tmp_path / "rated.jsonl")
    one = evaluate(tmp_path / "one", ["length"], file=path)
    two = evaluate(tmp_path / "two", ["random", "shortest"], file=path)
    report = gather_results([one, two])
    (part,) = report.rated
    assert part.models == ("length", "random", "shortest")
    assert (part.rows, set(part.figures)) == (24, {"long", EVIL})
    spearman = part.figures["long"]["length"].spearman
    assert spearman is not None
    assert spearman.value == pytest.approx(1.0)
    assert part.figures["long"]["shortest"].kendall == pytest.approx(-1.0)
    assert "length agrees most with the ratings of rated.jsonl" in answer_sentences(report)[0]
    mean = part.means["length"]
    known = [row["length"].spearman for row in part.figures.values()]
    assert mean.value == pytest.approx(sum(one.value for one in known if one is not None) / 2)
    assert mean.low < mean.value < mean.high
    assert f"Spearman {signed(mean)} for 2 objectives on average" in answer_sentences(report)[0]
    html = render_evaluation(report)
    assert "+1.00" in html
    assert EVIL not in html
    done = report_on([one, two], out=tmp_path / "page")
    assert "| long | +1.00 (" in (tmp_path / "page" / "report.md").read_text()
    assert f"| mean | {signed(mean)} |" in (tmp_path / "page" / "report.md").read_text()
    assert done.content["ratings"]["rated.jsonl"]["means"]["length"]["value"] == mean.value
    assert '<th scope="row">mean</th>' in html
    assert done.content["ratings"]["rated.jsonl"]["figures"]["long"]["length"]["spearman"]["value"] == pytest.approx(
        1.0
    )
    other = evaluate(tmp_path / "other", ["length"], file=rated_rows(tmp_path / "b" / "rated.jsonl", 30))
    assert [part.name for part in gather_results([one, other]).rated] == ["rated.jsonl", "rated.jsonl (other)"]


def audit_file(folder: Path) -> Path:
    folder.mkdir()
    found = audit(Parts(luck=luck, planted=lambda text: len(text) / 100), random_pairs(80), config=AUDITED)
    path = folder / "audit.json"
    path.write_text(json.dumps({f"mine {EVIL}": found.to_dict()}))
    return path


def test_an_audit_is_shown_from_its_file(tmp_path: Path) -> None:
    path = audit_file(tmp_path / "audited")
    report = gather_results([path])
    (part,) = report.audits
    raw = json.loads(path.read_text())[part.model]
    assert part.pairs == 80
    assert {one.setting for one in part.missed if one.clear} >= {"max_flip_rate.pad", "max_length_correlation"}
    assert all(one.objective == "planted" for one in part.missed if one.setting == "max_flip_rate.pad")
    (pad,) = [row for row in part.effects if row.edit == "pad"]
    assert pad.moved[0][0] == "planted"
    assert pad.change is not None
    assert pad.change.value == next(e for e in raw["effects"] if e["edit"] == "pad")["in_sd"]["value"]
    (sentence,) = answer_sentences(report)
    assert "pad (planted moved most)" in sentence
    html = render_evaluation(report)
    assert EVIL not in html
    assert f"{pad.change.value:+.2f}" in html
    assert "planted" in html
    done = report_on([path], out=tmp_path / "page")
    assert done.content["audits"][part.model] == raw
    assert "| pad | no change |" in (tmp_path / "page" / "report.md").read_text()


def test_a_broken_audit_is_refused(tmp_path: Path) -> None:
    path = audit_file(tmp_path / "audited")
    good = json.loads(path.read_text())
    (model,) = good
    for broken, said in (
        ({}, "no audit"),
        ([], "no audit"),
        ({model: {}}, "no key 'calibration'"),
        ({model: {**good[model], "effects": 3}}, "is broken"),
        ({model: {**good[model], "pairs": "many"}}, "is broken"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=re.escape(said)):
            gather_results([path])
    path.write_text(json.dumps(good))
    with pytest.raises(ConfigError, match="--out"):
        report_on([path])
    assert [file.name for file in path.parent.iterdir()] == ["audit.json"]


def test_a_trained_model_comes_before_a_better_baseline(folder: Path, tmp_path: Path) -> None:
    trained, results = copied(folder, tmp_path / "trained")
    results["models"]["shortest"]["kind"] = "model"
    (trained / "results.json").write_text(json.dumps(results))
    report = gather_results([trained])
    (part,) = report.benchmarks
    assert part.plain == {"length"}
    assert answer_sentences(report)[0].startswith("shortest on mine.jsonl: 25.0%")
    assert "below longest (75.0%)" in answer_sentences(report)[0]
    assert report.benchmarks[0].models == ("length", "shortest")


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither results\.json nor metrics\.json; give a folder"):
        gather_results([tmp_path])
    with pytest.raises(ConfigError, match="no folder"):
        report_on([])


def test_the_report_of_a_run_is_kept(tmp_path: Path) -> None:
    metrics = {
        "pair_accuracy": {"by_source": {"a": {"gate": 0.6}}},
        "verdict": {"statement": "usable.", "status": "usable"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ConfigError, match="would be replaced"):
        report_on([tmp_path])
    done = report_on([tmp_path], out=tmp_path / "page")
    assert done.content["answer"] == [f"{tmp_path.name}: usable."]
    assert "60.0%" in done.paths[0].read_text()


def part_of(rows: dict[str, list[JudgedQuestion]]) -> BenchmarkPart:
    figures = {
        "total": {
            model: MeasuredFigure(np.mean([one.verdict == "right" for one in found]), 0.0, 1.0)
            for model, found in rows.items()
        }
    }
    answered = {model: {(one.subset, one.id): one for one in found} for model, found in rows.items()}
    return BenchmarkPart("b", "B", tuple(rows), figures, {}, {}, answered, {}, {})


def row(n: int, margin: float, **parts: float) -> JudgedQuestion:
    return JudgedQuestion(
        f"{n}", "s", "t" if n % 2 else "u", "right" if margin > 0 else "wrong", margin, 2, None, parts
    )


def test_the_factor_of_the_margins_is_found() -> None:
    """Margins drawn so that p(right) = sigmoid(2 |margin|)."""
    rng = np.random.default_rng(0)
    sizes = rng.exponential(1.0, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-2 * sizes))
    pairs = enumerate(zip(sizes, right, strict=True))
    found = calibrated(part_of({"m": [row(n, x if r else -x) for n, (x, r) in pairs]}), "m")
    assert found is not None
    assert found.beta == pytest.approx(2.0, rel=0.1)
    assert found.error < 0.03
    judged = [n for n in range(4000) if hashlib.sha256(str(n).encode()).digest()[0] % 2 == 1]
    assert found.pairs == len(judged) == sum(count for _, _, count in found.bins)
    assert sum(a * count for _, a, count in found.bins) == pytest.approx(right[judged].sum())


def test_no_factor_without_pairs_or_without_a_signal() -> None:
    assert calibrated(part_of({"m": [row(n, 1.0) for n in range(60)]}), "m") is None
    assert calibrated(part_of({"m": [row(n, -1.0) for n in range(400)]}), "m") is None


def test_the_largest_disagreement_comes_first() -> None:
    a = [row(0, 1.0), row(1, 3.0), row(2, -1.0), row(3, 2.0), row(4, 5.0)]
    b = [row(0, -10.0), row(1, -30.0), row(2, 10.0), row(3, 10.0), row(4, -10.0)]
    first, second = contrasts(part_of({"b": b, "a": a}))
    assert first.title == "a is right, b is wrong"
    assert second.title == "b is right, a is wrong"
    scaled = {n: min(abs(a[n].margin or 0) / 2, abs(b[n].margin or 0) / 10) for n in (0, 1, 4)}
    assert [int(case.id) for case in first.cases] == sorted(scaled, key=lambda n: -scaled[n])
    assert [case.id for case in second.cases] == ["2"]


def test_a_waterfall_leads_to_the_margin() -> None:
    parts = {"a": 3.0, "b": -2.0, "c": 0.5, **{f"d{n}": -0.1 for n in range(5)}}
    (contrast,) = contrasts(part_of({"m": [row(0, -1.0, **parts)]}))
    (side,) = contrast.cases[0].sides
    assert [step.name for step in side.steps] == ["a", "b", "c", "d0", "d1", "d2", "2 others"]
    assert sum(step.value for step in side.steps) == pytest.approx(sum(parts.values()))
    assert (side.axis.low, side.axis.high) == pytest.approx((0.0, 3.0))
    ends = [step.left + step.width if step.value > 0 else step.left for step in side.steps]
    starts = [step.left if step.value > 0 else step.left + step.width for step in side.steps]
    assert starts[1:] == pytest.approx(ends[:-1]), "each bar starts where the one before it ends"
    assert ends[-1] == pytest.approx(side.total)


def test_shares_of_contributions_by_task() -> None:
    rows = [row(0, 1.0, x=1.0, y=-3.0), row(2, 1.0, x=1.0), row(1, 1.0, y=2.0)]
    names, tasks, values = shares_by_task(part_of({"m": rows}), "m") or ([], [], [])
    found = {(name, task): values[i][k] for i, name in enumerate(names) for k, task in enumerate(tasks)}
    assert found == {("x", "u"): 0.4, ("y", "u"): 0.6, ("x", "t"): 0.0, ("y", "t"): 1.0}
    assert all(math.isclose(sum(column), 1.0) for column in zip(*values, strict=True))
