"""RewardBench's own program and ``facetrm eval`` on the same model folder and the same file, row by row.

    python benchmarks/official_rewardbench.py --env /tmp/rewardbench-env --work /tmp/rewardbench-work

The official package runs in a virtual environment of its own (--env, made on the first run): it pins Transformers 4.51,
which cannot live beside facetrm. The model is SmolLM2-135M-Instruct with random heads and a random gate, exported in
ArmoRM's layout; the file has pairs of the desk in RewardBench's columns, with the prompt as a list of messages, because
``--load_json`` reads a prompt only in that form. Pairs with a system turn are left out: whatever the roles say, the
program takes the turns of a prompt for user and assistant in turns. Nothing of the package is changed. It sends its
inputs to "cuda" without asking, so that a launcher outside the package sends them to the CPU if there is no GPU.

Three readings are compared: the official program with batches of 1 and 8 in float32 and 8 in bfloat16, facetrm, and a
plain loop over the export with Transformers alone, one unpadded row at a time, as a referee.
Prints a table and writes benchmarks/results/official_rewardbench.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from facetrm import export_published
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.files import write_json
from facetrm.data.desk.desk import Desk
from facetrm.data.objectives import Objective
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from provenance import provenance

ROOT: Final = Path(__file__).resolve().parents[1]
PINS: Final = (
    "torch==2.13.0",
    "transformers==4.51.3",
    "trl==0.17.0",
    "accelerate==1.6.0",
    "datasets==3.5.0",
    "wandb==0.19.9",
    "setuptools==79.0.1",  # pkg_resources
    "numpy==2.2.6",
    "pandas",
    "sentencepiece",
    "tabulate",
    "tiktoken",
    "jinja2",
)
BARE: Final = ("rewardbench==0.1.4", "fschat==0.2.36", "bitsandbytes==0.45.5")  # installed without their dependencies
SUBSETS: Final = ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "hep-python")
LAUNCHER: Final = """
import torch
from transformers import BatchEncoding

if not torch.cuda.is_available():
    to = BatchEncoding.to
    BatchEncoding.to = lambda self, device, **k: to(self, "cpu" if device == "cuda" else device, **k)

from rewardbench.rewardbench import main

main()
"""
REFEREE: Final = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(
    sys.argv[1], trust_remote_code=True, torch_dtype=torch.float32, attn_implementation="eager").eval()
scores = []
for line in open(sys.argv[2]):
    row = json.loads(line)
    for side in ("chosen", "rejected"):
        turns = [*row["prompt"], {"role": "assistant", "content": row[side]}]
        ids = torch.tensor([tokenizer.apply_chat_template(turns, tokenize=True)])
        with torch.no_grad():
            scores.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).score.item())
print(json.dumps({"chosen": scores[::2], "rejected": scores[1::2], "rope_theta": model.config.rope_theta}))
"""


def environment(folder: Path) -> Path:
    """Return the Python of the official package's environment, made on the first call."""
    python = folder / "bin" / "python"
    done = folder / "installed.json"
    wanted = [*PINS, *BARE]
    if not done.exists() or json.loads(done.read_text()) != wanted:
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINS], check=True)
        subprocess.run([*pip, "--no-deps", *BARE], check=True)
        done.write_text(json.dumps(wanted))
    return python


def write_rows(path: Path, pairs: int) -> None:
    """Write pairs of the desk in RewardBench's columns."""
    with path.open("w", encoding="utf-8") as file:
        listed = Desk().preferences(3 * pairs, part="test")
        for n, pair in enumerate(islice((pair for pair in listed if pair.prompt[0].role == "user"), pairs)):
            row = {
                "id": n,
                "subset": SUBSETS[n % len(SUBSETS)],
                "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
                "chosen": pair.chosen[-1].content,
                "rejected": pair.rejected[-1].content,
                "chosen_model": "desk",
                "rejected_model": "desk",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_model(folder: Path, backbone: str) -> None:
    """Export the backbone under four random heads with intercepts and a random gate."""
    encoder = load_encoder(BackboneConfig(path=backbone, device="cpu", dtype="float32"))
    size = encoder.hidden_size
    torch.manual_seed(0)
    names = ("one", "two", "three", "four")
    experts = LinearExperts(
        [Objective(name=name, low=0, high=4) for name in names], 0.1 * torch.randn(4, size), torch.randn(4)
    )
    gate = Gate(GateShape(size, 4, hidden=16, n_hidden=1))
    state = {n: 0.1 * torch.randn_like(t) for n, t in gate.named_parameters()}
    gate.load_state_dict(state, strict=False)
    export_published(RewardModel(encoder, {"all": Mixture(experts, GatedSum(gate))}), folder)


def official(python: Path, work: Path, *, dtype: str, batch: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows and summary of the official program."""
    options = ["--model", "exported", "--dataset", "rows.jsonl", "--load_json", "--trust_remote_code"]
    options += ["--torch_dtype", dtype, "--not_quantized", "--batch_size", str(batch), "--max_length", "2048"]
    options += ["--output_dir", f"official-{dtype}-{batch}/"]
    away = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    away.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), "-c", LAUNCHER, *options], cwd=work, env=away, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    folder = work / f"official-{dtype}-{batch}"
    return read_lines(folder / "exported_outputs.jsonl"), json.loads((folder / "exported.json").read_text())


def referee(python: Path, work: Path) -> dict[str, Any]:
    """Return the scores of a plain loop with Transformers 4.51, one row at a time."""
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [str(python), "-c", REFEREE, "exported", "rows.jsonl"]
    done = subprocess.run(line, cwd=work, env=away, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def ours(work: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows and summary of ``facetrm eval``, from the files that it writes in the official layout."""
    out = work / "facetrm"
    line = [sys.executable, "-m", "facetrm", "eval", "exported", "--on", "rewardbench=rows.jsonl", "--out", str(out)]
    subprocess.run([*line, "--device", "cpu"], cwd=work, check=True, stdout=subprocess.DEVNULL)
    [rows], [summary] = (sorted((out / "official").rglob(name)) for name in ("scores.jsonl", "results.json"))
    return read_lines(rows), json.loads(summary.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scores(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of both sides."""
    return {side: [float(row[f"scores_{side}"]) for row in rows] for side in ("chosen", "rejected")}


def difference(left: dict[str, Any], right: dict[str, Any]) -> dict[str, float]:
    """Return the largest |difference| of a score and the number of rows with another verdict."""
    sides = ("chosen", "rejected")
    gaps = [abs(a - b) for side in sides for a, b in zip(left[side], right[side], strict=True)]
    verdicts = [[c > r for c, r in zip(one["chosen"], one["rejected"], strict=True)] for one in (left, right)]
    other = sum(a != b for a, b in zip(*verdicts, strict=True))
    return {"rows": len(verdicts[0]), "largest": max(gaps), "mean": sum(gaps) / len(gaps), "other_verdicts": other}


def main() -> None:
    """Run all programs, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, required=True, help="folder of the official package's environment")
    parser.add_argument("--work", type=Path, required=True, help="folder for model, rows and outputs; emptied first")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "official_rewardbench.json")
    options = parser.parse_args()
    work = options.work.resolve()
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    python = environment(options.env.resolve())
    write_rows(work / "rows.jsonl", options.pairs)
    write_model(work / "exported", options.backbone)
    our_rows, our_summary = ours(work)
    mine, plain = scores(our_rows), referee(python, work)
    found: dict[str, Any] = {"facetrm - referee": difference(mine, plain)}
    for dtype, batch in (("float32", 1), ("float32", 8), ("bfloat16", 8)):
        rows, summary = official(python, work, dtype=dtype, batch=batch)
        theirs = scores(rows)
        found[f"facetrm - official, {dtype}, batch {batch}"] = difference(mine, theirs)
        found[f"official, {dtype}, batch {batch} - referee"] = difference(theirs, plain)
        found[f"accuracy: official, {dtype}, batch {batch}"] = summary["accuracy"]
    keys = {
        "scores: only official": sorted(rows[0].keys() - our_rows[0].keys()),
        "scores: only facetrm": sorted(our_rows[0].keys() - rows[0].keys()),
        "summary: only official": sorted(summary.keys() - our_summary.keys()),
        "summary: only facetrm": sorted(our_summary.keys() - summary.keys()),
        "scores: other content": sorted(
            name
            for name in rows[0].keys() & our_rows[0].keys()
            if "score" not in name and rows[0][name] != our_rows[0][name]
        ),
    }
    every = torch.tensor([mine["chosen"], mine["rejected"]])
    print(f"{'':45}{'largest |d|':>12}{'other verdicts':>16}")
    for name, one in found.items():
        if isinstance(one, dict):
            print(f"{name:45}{one['largest']:12.2e}{one['other_verdicts']:16d}")
    results = {**provenance(), "backbone": options.backbone, "pins": [*PINS, *BARE], "launcher": LAUNCHER}
    results |= {
        "spread": float(every.std()),
        "rope_theta": plain["rope_theta"],
        "accuracy: facetrm": our_summary["accuracy"],
    }
    write_json(options.out, {**results, "differences": found, "keys": keys})


if __name__ == "__main__":
    main()
