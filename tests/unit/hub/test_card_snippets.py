"""The snippets of a card run as they stand, and names that others gave write nothing into it but themselves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from facetrm import Message, load_model
from facetrm.data.objectives import Objective
from facetrm.hub.card import escape_markdown, write_card
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.run import Run
from gated_models import model


def blocks(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)


def test_each_python_snippet_runs_where_the_folder_lies(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    found = blocks(write_card(run / "model", tiny_run.fit.model, name=run.name))
    assert len(found) == 2
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, "card", "exec"), names)
    talk = (Message(role="user", content="What is 2 + 2?"), Message(role="assistant", content="4"))
    (expected,) = tiny_run.fit.model.score([talk])
    assert capsys.readouterr().out.startswith(f"{expected.reward}"[:6])
    assert names["model"].__class__.__name__ == "FacetrmForSequenceClassification"


def test_the_reward_function_of_trl_is_a_folder_that_transformers_loads(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    text = write_card(run / "model", tiny_run.fit.model, name=run.name).read_text()
    (place,) = re.findall(r'reward_funcs="([^"]+)"', text)
    assert place == "run/model"
    # As TRL does with a string.
    loaded = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1)
    assert loaded._reward_model.hash == load_model(tiny_run.folder).hash


def test_a_name_on_the_hub_is_left_as_it_is(tmp_path: Path) -> None:
    text = write_card(tmp_path, model(tmp_path / "b"), name="me/name").read_text()
    assert 'load_model("me/name")' in text
    assert "Run them in" not in text


HOSTILE = "<img src=x onerror=alert(1)> ![p](http://a.b/c) [l](javascript:x) | `x` \n# h www.evil.org &lt;"


def test_names_of_others_bring_no_html_image_link_or_cell(tmp_path: Path) -> None:
    base = model(tmp_path / "b")
    ((task, mixture),) = base.mixtures.items()
    experts = mixture.experts
    assert isinstance(experts, LinearExperts)
    hostile = [
        Objective(name=f"{HOSTILE} {n}", low=0, high=1, meaning=HOSTILE, rater=HOSTILE, source=HOSTILE)
        for n in range(len(experts.objectives))
    ]
    size = experts.weight_KD.shape[1]
    renamed = LinearExperts(hostile, torch.ones(len(hostile), size), torch.zeros(len(hostile)))
    aggregator = mixture.aggregator
    assert isinstance(aggregator, GatedSum)
    changed = RewardModel(base.encoder, {task: Mixture(renamed, aggregator)})
    text = write_card(tmp_path, changed, name='x"]) `whoami` <b>').read_text(encoding="utf-8")
    prose = re.sub(r"```python\n.*?```", "", text.split("---", 2)[2], flags=re.DOTALL)
    prose = re.sub(r"(?<!\\)`[^`\n]*`", "", prose)  # nothing in a span of code is markup
    assert "<" not in prose
    assert not re.search(r"(?<!\\)!?\[[^\]]*(?<!\\)\]\(", prose)
    assert "http://" not in prose
    assert "www." not in prose
    rows = [line for line in prose.splitlines() if "onerror" in line and line.startswith("|")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} <= {7, 4}
    for block in blocks(tmp_path / "README.md"):
        compile(block, "card", "exec")


def test_plain_names_are_written_as_they_are() -> None:
    for name in ("birch-honesty", "ultrafeedback-overall_score", "1 to 5, higher is better", "math/clarity"):
        assert escape_markdown(name) == name
