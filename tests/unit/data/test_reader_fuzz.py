"""Fuzzed rows of every convention and file type: read, or refused with place and fix; and exact round trips."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from facetrm.core.errors import FacetrmError
from facetrm.data.read.conversations import conversations_in_memory, read_conversations
from facetrm.data.read.files import read_preferences, read_ratings, read_records

KEYS = [
    "messages",
    "prompt",
    "chosen",
    "rejected",
    "response",
    "completion",
    "answer",
    "responses",
    "rejected_response",
    "ratings",
    "margin",
    "strength",
    "id",
    "task",
    "split",
    "source",
    "category",
    "meta",
    "system",
    "tools",
    "extra",
]
MARKS = ["Human:", "\nAssistant:", "\n\nHuman:", "<|im_start|>user\n", "<|im_end|>", "[INST]", "[/INST]", "</s>", "[{"]
MARKS += ["'role':", '"role":', "]", "H:", "\nA:", "[/red]", "\ud800", "\x00", "é", "<bos>", "how ?", " ", "\n", "a: b"]

words = st.lists(st.sampled_from([*MARKS, "egg", "water", "milk"]), max_size=5).map("".join)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "model"]), "content": words},
    optional={"tool_calls": st.none() | st.just([]) | st.just([1]), "name": st.none() | words},
)
turns = st.lists(message, max_size=4)
odd = st.sampled_from([None, True, 0, -1, 1.5, float("nan"), float("inf"), 2**70, 10**400, [], {}, [[]], [None], ""])
deep = st.sampled_from([1, 60, 99, 101, 200]).map(lambda n: json.loads("[" * n + "]" * n))
cell = words | turns | turns.map(json.dumps) | turns.map(repr) | odd | deep | message
good = st.sampled_from(["how do i boil an egg ?", [{"role": "user", "content": "how ?"}]])
rows = st.dictionaries(st.sampled_from(KEYS), cell, max_size=6) | st.fixed_dictionaries(
    {"prompt": good | cell, "chosen": cell, "rejected": cell}
)
lines = rows | cell | st.tuples(words, words)
READERS: list[Callable[[Path], Any]] = [read_conversations, read_preferences, read_ratings, read_records]
fuzz = settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def check(error: FacetrmError, name: str) -> None:
    assert error.place is not None
    assert name in error.place
    assert error.fix
    assert len(str(error).encode("utf-8")) < 3000


def read_all(path: Path) -> None:
    """Read ``path`` as everything; a refusal must name the place and the fix, in a bounded message."""
    for reader in READERS:
        try:
            reader(path)
        except FacetrmError as exc:
            check(exc, path.name)


@seed(1)
@fuzz
@given(st.lists(lines, min_size=25, max_size=25), st.integers(0, 3))
def test_fuzzed_lines_are_read_or_refused(values: list[Any], damage: int) -> None:
    data = b"".join(json.dumps(value, default=str).encode() + b"\n" for value in values)
    if damage == 1:
        data = data[: len(data) * 2 // 3].replace(b"egg", b"\xe9gg")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.jsonl.gz" if damage == 2 else "x.jsonl" if damage < 3 else "x.json")
        path.write_bytes(gzip.compress(data) if damage == 2 else data)
        read_all(path)
    for value in values:
        try:
            conversations_in_memory([value])
        except FacetrmError as exc:
            check(exc, "rows:1" if value else "rows")


@seed(2)
@settings(fuzz, max_examples=30)
@given(st.lists(rows, min_size=25, max_size=25), st.sampled_from(["json", "text", "csv", "tsv"]))
def test_fuzzed_tables_are_read_or_refused(values: list[dict[str, Any]], kind: str) -> None:
    texts = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in values]
    names = sorted({key for row in texts for key in row}) or ["prompt"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.parquet" if kind in ("json", "text") else f"x.{kind}")
        if path.suffix == ".parquet":
            clean = [{k: v.encode("utf-8", "replace").decode() for k, v in row.items()} for row in texts]
            if kind == "json":
                coded = {n: [None if n not in row else json.dumps(row[n]) for row in clean] for n in names}
                columns = {
                    n: pa.ExtensionArray.from_storage(pa.json_(), pa.array(c, pa.string())) for n, c in coded.items()
                }
            else:
                columns = {n: pa.array([row.get(n) for row in clean], pa.string()) for n in names}
            pq.write_table(pa.table(columns), path)
        else:
            out = io.StringIO()
            table = csv.DictWriter(out, names, delimiter="," if kind == "csv" else "\t")
            table.writeheader()
            table.writerows(texts)
            path.write_bytes(out.getvalue().encode("utf-8", "surrogatepass"))
        read_all(path)


said = st.lists(
    st.sampled_from(["egg", "water", "a,b", 'q"q', "é😀", "one\ntwo", "x: y", "- [z]"]), min_size=1, max_size=4
)
text = said.map(" ".join)
pairs = st.tuples(st.lists(text, min_size=1, max_size=3), text, text).filter(lambda p: p[1] != p[2])


def talk(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": one} for n, one in enumerate(texts)]


def chatml(turns: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in turns)


def llama(turns: list[dict[str, str]]) -> str:
    marks = (f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>" for m in turns)
    return "<|begin_of_text|>" + "".join(marks)


def gemma(turns: list[dict[str, str]]) -> str:
    roles = {"user": "user", "assistant": "model"}
    return "<bos>" + "".join(f"<start_of_turn>{roles[m['role']]}\n{m['content']}<end_of_turn>\n" for m in turns)


def hh(turns: list[dict[str, str]]) -> str:
    return "".join(f"\n\n{'Human' if m['role'] == 'user' else 'Assistant'}: {m['content']}" for m in turns)


def spelt(turns: list[dict[str, str]]) -> str:
    return "\n".join(f"{m['role'].upper()}: {m['content']}" for m in turns)


@seed(3)
@settings(fuzz, max_examples=120)
@given(pairs)
def test_every_convention_is_read_back_as_the_same_conversation(pair: tuple[list[str], str, str]) -> None:
    asked, better, worse = pair
    history = talk([one for n, q in enumerate(asked) for one in ([q] if n == 0 else [better, q])])
    good, bad = ({"role": "assistant", "content": one} for one in (better, worse))
    whole = ([*history, good], [*history, bad])
    forms: list[dict[str, Any]] = [
        {"prompt": history, "responses": [good, bad]},
        {"prompt": history, "chosen": [good], "rejected": [bad]},
        {"prompt": history, "chosen": better, "rejected": worse},
        {"prompt": history, "chosen": whole[0], "rejected": whole[1]},
        {"prompt": history, "chosen": whole[0][-2:], "rejected": whole[1][-2:]},
        {"chosen": whole[0], "rejected": whole[1]},
        {"messages": whole[0], "rejected_response": worse},
    ]
    for write in (json.dumps, repr, chatml, llama, gemma, hh, spelt):
        forms.append({"chosen": write(whole[0]), "rejected": write(whole[1])})
        header = "\nASSISTANT:" if write is spelt else ""
        forms.append({"prompt": write(history) + header, "chosen": better, "rejected": worse})
    for form in forms:
        (row,) = conversations_in_memory([form])
        found = [[m.model_dump() for m in answer] for answer in row.answers]
        assert found == [list(turns) for turns in whole], form
