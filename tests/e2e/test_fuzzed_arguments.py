"""Seeded fuzz of the command line: whatever is asked, an answer or one message that can be read, never a traceback."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from command_line import command
from facetrm.recipes.run import Run

FILES: dict[str, bytes] = {
    "empty.jsonl": b"",
    "junk.jsonl": b"\x00\xff\x1b[31m\x80 no text\n" * 3,
    "long.jsonl": b"[" * 50_000 + b"\n",
    "keys.jsonl": json.dumps({"\x1b]0;x\x07" * 400: 1, "prompt": None}).encode(),
    "words.jsonl": b'"text"\n17\nnull\n[]\n',
    "odd.jsonl": json.dumps({"prompt": "\x1b[2J\ud800", "chosen": 3, "rejected": {"a": [None]}}).encode(),
    "nan.jsonl": b'{"messages": [{"role": "user", "content": NaN}]}',
    "junk.yaml": b"a: [1, {b: *c}\n\t- : x",
    "deep.yaml": b"a: " + b"{a: " * 3000,
    "list.yaml": b"- recipe: armorm\n",
    "unknown.yaml": b'recipe: [armorm, {x: 1}]\nseed: -3\n"\\e[31m": 1\n',
    "junk.parquet": b"PAR1" + b"\x00" * 40 + b"PAR1",
    "junk.jsonl.gz": b"\x1f\x8b\x08 not gzip",
    "model/config.json": b'{"model_type": "llama", "hidden_size": "wide"}',
    "other/facetrm.json": b'{"format": 999, "checksum": []}',
}
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=30)
NUMBERS = st.sampled_from(["0", "-1", "1e999", "nan", "inf", "9" * 400, "0x1", "1_0", "٣", "1.5", ""])
PATHS = st.sampled_from([*FILES, "good.jsonl", "RUN", "model", "other", ".", "missing/x", "x" * 300, "~nobody/x", ""])
DEVICES = st.sampled_from(["cpu", "auto", "cuda:99", "mps", "cpu:-1", "tpu", "", "\x1b[31m", "meta"])
KEYS = [
    "dtype",
    "max_tokens",
    "truncation",
    "backbone.dtype",
    "a.b.c",
    "path",
    "device",
    "batch_tokens",
    "seed",
    "adapter",
]
VALUES = (
    TEXT | NUMBERS | st.sampled_from(["[1", "{a: {b: 1}}", "null", "float64", "&a [*a]", "!!python/name:os.x", "-5"])
)
SETTINGS = st.builds("{}={}".format, st.sampled_from(KEYS) | TEXT, VALUES) | TEXT
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    **dict.fromkeys(["--set"], SETTINGS),
    **dict.fromkeys(["--data", "--backbone", "--rubric", "--against"], PATHS),
    **dict.fromkeys(["--device"], DEVICES),
    **dict.fromkeys(["--max-tokens", "--rows", "--threshold", "--timeout", "--shard-rows", "--line"], NUMBERS),
    **dict.fromkeys(
        ["--drop", "--scale", "--pin", "--allow", "--mode", "--truncation", "--on-error"], VALUES | SETTINGS
    ),
    **dict.fromkeys(["--key-env", "--model", "--row", "--task"], TEXT),
}
FLAGS = st.sampled_from(
    ["--json", "--dry-run", "--trust-remote-code", "--log-json", "--overall", "--no-such", "-x", "--"]
)
PAIRS = st.sampled_from(list(OPTIONS)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name]).map(list))
WORDS = st.lists(PAIRS | FLAGS.map(lambda flag: [flag]) | (PATHS | TEXT).map(lambda word: [word]), max_size=6)
VERBS = ["score", "explain", "doctor", "encode", "label", "run"]
USUAL = {
    "score": ["RUN", "--data", "good.jsonl"],
    "explain": ["RUN", "--data", "good.jsonl"],
    "doctor": ["RUN"],
    "encode": ["--backbone", "model", "--data", "good.jsonl", "--out", "features"],
    "label": ["--data", "good.jsonl", "--rubric", "general", "--model", "m", "--out", "labels", "--dry-run"],
    "run": [],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    row = {"prompt": "as pirate .", "chosen": "two plus two is four .", "rejected": "signed pirate ."}
    (folder / "good.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def commands() -> st.SearchStrategy[list[str]]:
    """Return command lines: any words behind a verb, or a usual line with some words more; no recipe is whole."""
    usual = st.sampled_from(VERBS).flatmap(lambda verb: WORDS.map(lambda words: [verb, *USUAL[verb], *chain(*words)]))
    loose = st.tuples(st.sampled_from(VERBS) | TEXT, WORDS).map(lambda line: [line[0], *chain(*line[1])])
    return usual | loose


@seed(20261128)
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(line=commands())
def test_any_command_line_ends_in_an_answer_or_in_one_message(line: list[str], place: Path, tiny_run: Run) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COLUMNS", "100")
        patch.setenv("HOME", str(place))
        patch.delenv("FACETRM_TRACEBACK", raising=False)
        said = command(*(str(tiny_run.folder) if word == "RUN" else word for word in line))
    assert said.code in (0, 2, 3), said
    assert "Traceback" not in said.out + said.err
    assert "internal error" not in said.err
    if said.code == 2 and len(line) > 1:
        message = said.complaint or said.err or said.out
        assert message.strip()
        assert len(message) <= 3000
        assert all(letter.isprintable() or letter == "\n" for letter in message), repr(message)
