"""Protocol fit: ``transformers serve`` with a tiny random model answers what labelling asks.

A random model says nothing of sense, so its last layer is bent: every token it can choose is a whole verdict. Which
verdict it chooses still depends on the prompt that went through its template, tokenizer and layers.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from facetrm.core.errors import LabelError
from facetrm.data.read.files import read_preferences
from facetrm.label.run import label_pairs
from fakes import tiny_decoder
from label_samples import pairs, plan

VERDICTS = ['{"better": "reply_1"}', '{"better": "reply_2"}', '{"better": "tie"}']


def bent_decoder(folder: Path) -> Path:
    """Write a random decoder that ends after one of VERDICTS."""
    tiny_decoder(folder, max_tokens=4096)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in VERDICTS])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = tokenizer.convert_tokens_to_ids(VERDICTS)
    torch.manual_seed(1)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        direction = torch.randn(head.shape[1])
        head.zero_()
        # Two opposite rows: whatever the hidden state is, one of them is above the zeros of all other tokens.
        head[rows[0]], head[rows[1]] = direction, -direction
    model.generation_config.eos_token_id = rows
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = bent_decoder(tmp_path_factory.mktemp("served") / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
    log = folder.parent / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*line, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=out,
            stderr=out,
            env=dict(os.environ),
        )
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_real_server_is_labelled_with(served: tuple[str, str], tmp_path: Path) -> None:
    url, model = served
    made = plan(url, rows=pairs(8), model=model, in_flight=2, timeout=60.0, max_tokens=8)
    labelled = label_pairs(made, tmp_path / "out", quiet=True)
    report = labelled.report
    assert labelled.failures == []
    assert report["answered"] == report["questions"] == report["folder"]["requests"] == 32
    outcomes = report["all"]["outcomes"]
    assert sum(outcomes[name] for name in ("first", "second", "first_twice", "second_twice")) == 16
    assert read_preferences(tmp_path / "out" / "preferences.jsonl") == labelled.preferences
    tokens = report["folder"]
    assert tokens["tokens_in"] > 32 * 500, "the server counts a byte as a token"
    assert tokens["tokens_out"] == 32
    assert list(report["models_that_answered"].values()) == [32]
    again = label_pairs(made, tmp_path / "out", quiet=True)
    assert again.report["this_run"] == {"requests": 0, "answered": 0}
    assert again.preferences == labelled.preferences


@pytest.mark.slow
def test_what_a_real_server_refuses_is_named(served: tuple[str, str], tmp_path: Path) -> None:
    url, model = served
    made = plan(url, rows=pairs(1), model=model, extra={"no_such_field": 1}, tries=1, timeout=60.0)
    with pytest.raises(LabelError, match=r"no question was answered; .* \(4 of 4\): HTTP 422"):
        label_pairs(made, tmp_path, quiet=True)
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(failures) == 4
    for row in failures:
        assert row["reason"].startswith("HTTP 422"), row
        assert "no_such_field" in row["reason"]
        assert row["permanent"]
    assert json.loads((tmp_path / "report.json").read_text())["answered"] == 0
