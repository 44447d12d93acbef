"""What starts up: which modules a command loads, in processes of their own, and that the Auto classes know us still."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from facetrm.recipes.run import Run

HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "scipy", "pyarrow", "huggingface_hub", "accelerate")
LOADED = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
VERB = LOADED + "sys.argv = ['facetrm', *sys.argv[1:]]\nfrom facetrm.cli import main\nmain()\n"


def run(program: str, *arguments: str | Path, code: int = 0, **variables: str) -> tuple[str, str, set[str]]:
    """Run a program; return its standard output, its standard error, and the modules that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )
    assert done.returncode == code, done.stderr
    said, _, loaded = done.stderr.rstrip("\n").rpartition("\n")
    return done.stdout, said, set(json.loads(loaded))


@pytest.mark.parametrize(
    "program", ["import facetrm", "import facetrm; facetrm.__version__; dir(facetrm); facetrm.hub; facetrm.explain"]
)
def test_importing_the_package_loads_nothing_heavy(program: str) -> None:
    *_, loaded = run(LOADED + program)
    assert loaded.isdisjoint({*HEAVY, "pydantic", "rich"})


@pytest.mark.parametrize("program", ["from facetrm import *", "from facetrm import RewardModel, load_model"])
def test_a_name_is_loaded_when_it_is_used(program: str) -> None:
    *_, loaded = run(LOADED + program)
    assert {"facetrm.model.reward_model", "facetrm.hub.load"} <= loaded


COMPLETION = {"_FACETRM_COMPLETE": "complete_bash", "COMP_WORDS": "facetrm sc", "COMP_CWORD": "1"}
QUICK: list[tuple[Sequence[str], int, str, dict[str, str]]] = [
    (["--help"], 0, "doctor", {}),
    (["-h"], 0, "doctor", {}),
    ([], 2, "doctor", {}),
    (["--version"], 0, "facetrm ", {}),
    (["-v"], 0, "facetrm ", {}),
    *(
        ([verb, "--help"], 0, f"facetrm {verb}", {})
        for verb in ("init", "train", "run", "encode", "label", "score", "explain", "export", "doctor")
    ),
    (["scor"], 2, "Did you mean 'score'", {}),
    (["score", "--dat", "x"], 2, "--data", {}),
    (["score"], 2, "facetrm: UsageError: facetrm score: Missing argument 'model'; see facetrm score --help", {}),
    (["doctor", "x", "--allow", "no-such"], 2, "no finding 'no-such'", {}),
    ([], 0, "score", COMPLETION),
]


@pytest.mark.parametrize(("arguments", "code", "text", "variables"), QUICK, ids=lambda value: str(value)[:30])
def test_help_and_a_wrong_word_load_nothing_heavy(
    arguments: Sequence[str], code: int, text: str, variables: dict[str, str]
) -> None:
    out, said, loaded = run(VERB, *arguments, code=code, **variables)
    assert text in out + said
    assert loaded.isdisjoint(HEAVY)


AUTO = {
    "transformers first": "from transformers import AutoConfig, AutoModelForSequenceClassification as M\n"
    "import facetrm",
    "facetrm first": "import facetrm\nfrom transformers import AutoConfig, AutoModelForSequenceClassification as M",
    "transformers without its models first": "import transformers, facetrm\nfrom transformers import AutoConfig\n"
    "M = transformers.AutoModelForSequenceClassification",
    "facetrm's own use of transformers first": "import facetrm\nfacetrm.load_encoder\n"
    "from transformers import AutoConfig, AutoModelForSequenceClassification as M",
    "a hook of another before ours": "import facetrm, importlib.abc, sys\n"
    "class F(importlib.abc.MetaPathFinder):\n    def find_spec(self, *a): return None\n"
    "sys.meta_path.insert(0, F())\nimport importlib; importlib.invalidate_caches()\n"
    "from transformers import AutoConfig, AutoModelForSequenceClassification as M",
}


@pytest.mark.parametrize("order", AUTO)
def test_auto_classes_know_our_folders_in_either_order(order: str, tiny_run: Run) -> None:
    program = AUTO[order] + (
        "\nimport sys\nconfig = AutoConfig.from_pretrained(sys.argv[1])\nmodel = M.from_pretrained(sys.argv[1])\n"
        "print(type(config).__name__, type(model).__name__)\n"
        "print(M.from_pretrained(sys.argv[1], config=config).config.hidden_size)"
    )
    out, *_ = run(LOADED + program, tiny_run.folder / "model")
    config, model, size = out.split()
    assert (config, model) == ("FacetrmConfig", "FacetrmForSequenceClassification")
    assert int(size) > 0


BASE = LOADED + "from transformers import AutoConfig, AutoModel, AutoTokenizer, LlamaModel"
OURS = {"facetrm", "typer", "shellingham", "pydantic", "pydantic_core", "typing_inspection"} | {
    "annotated_types",
    "annotated_doc",
}


def test_scoring_loads_little_beyond_the_model_class(tiny_run: Run, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "as pirate"}, {"role": "assistant", "content": "two plus two"}]}
    (tmp_path / "row.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    *_, base = run(BASE)
    out, _, loaded = run(VERB, "score", tiny_run.folder, "--data", tmp_path / "row.jsonl")
    assert "reward" in json.loads(out)
    others = {name for name in loaded - base if name.split(".")[0] not in OURS | sys.stdlib_module_names}
    assert not others, "modules that no score of a JSONL row needs"


@pytest.mark.parametrize(("start", "least"), [("start", 100_000), ("main", 0)])
def test_a_process_of_ours_keeps_what_it_imports_out_of_collections(
    start: str, least: int, tiny_run: Run, tmp_path: Path
) -> None:
    """The objects of PyTorch and Transformers are frozen in a process of ours, and never in one that only calls us."""
    row = {"messages": [{"role": "user", "content": "as pirate"}, {"role": "assistant", "content": "two plus two"}]}
    (tmp_path / "row.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    program = (
        "import atexit, gc, json, sys\n"
        "atexit.register(lambda: print(json.dumps([gc.get_freeze_count(), gc.isenabled()]), file=sys.stderr))\n"
        f"sys.argv = ['facetrm', *sys.argv[1:]]\nfrom facetrm.cli import {start}\n{start}()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "score", str(tiny_run.folder), "--data", str(tmp_path / "row.jsonl")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    frozen, enabled = json.loads(done.stderr.rstrip("\n").rpartition("\n")[2])
    assert enabled, "the collector goes on after the imports"
    assert frozen >= least
    assert (frozen == 0) == (least == 0)


def test_scoring_loads_no_trainer_and_no_peft(tiny_run: Run, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "as pirate"}, {"role": "assistant", "content": "two plus two"}]}
    (tmp_path / "row.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    out, _, loaded = run(VERB, "score", tiny_run.folder, "--data", tmp_path / "row.jsonl")
    assert "reward" in json.loads(out)
    assert loaded.isdisjoint({"peft", "transformers.trainer", "datasets", "scipy.stats", "sklearn", "rich"})
