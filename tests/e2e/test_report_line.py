"""``facetrm eval`` and then ``facetrm report``, as on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from benchmark_samples import one_row, write_lines
from facetrm.cli.app import app
from facetrm.core.errors import DataError


def test_eval_and_then_report(tmp_path: Path) -> None:
    out = tmp_path / "ev"
    line = ["eval", "length", "random", "--on", "desk", "--pairs", "40", "--samples", "20", "--out", str(out)]
    assert CliRunner().invoke(app, line).exit_code == 0
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0, done.output
    assert str(out / "report.html") in done.output
    content = json.loads((out / "report.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert content["answer"][0] in done.output
    shown = content["benchmarks"]["desk"]["figures"]["total"]["length"]
    assert shown == results["benchmarks"]["desk"]["figures"]["total"]["length"]
    html = (out / "report.html").read_text()
    assert f"{100 * shown['value']:.1f}%" in html
    assert "length is right, random is wrong" in html


def test_report_on_another_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(done.exception, DataError)
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_without_one_of_its_domains_says_so_everywhere(tmp_path: Path) -> None:
    for domain in ("chat", "code", "safety-refuse", "safety-response"):
        row = {name: value for name, value in one_row("rm-bench").items() if name != "domain"}
        write_lines(tmp_path / "files" / f"{domain}_filtered.json", [row | {"id": domain}])
    out, said = tmp_path / "ev", "Not in these files: math. The total is over the others"
    line = ["eval", "length", "--on", f"rm-bench={tmp_path / 'files'}", "--samples", "20", "--out", str(out)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert said in done.output
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    assert json.loads((out / "report.json").read_text())["benchmarks"]["rm-bench"]["about"]["missing"] == ["math"]
    assert said in (out / "report.html").read_text()
    assert said in (out / "report.md").read_text()
