"""What stands in a cell: read as the conversation that it is, or refused by name; never as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import DataError
from facetrm.data.read.conversations import conversations_in_memory, read_conversations
from facetrm.data.read.files import read_preferences

S, U, A, B = (
    {"role": role, "content": text}
    for role, text in (("system", "Be brief."), ("user", "how ?"), ("assistant", "in water"), ("assistant", "in milk"))
)
Q = {"role": "user", "content": "and then ?"}
CHATML = "<|im_start|>user\nhow ?<|im_end|>\n<|im_start|>assistant\n"
LLAMA = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhow ?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<bos><start_of_turn>user\nhow ?<end_of_turn>\n<start_of_turn>model\n"


def pair(prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {key: value for key, value in row.items() if value is not None}


def read(row: Any) -> list[list[dict[str, str]]]:
    (found,) = conversations_in_memory([row])
    return [[message.model_dump() for message in answer] for answer in found.answers]


PLAIN = [[U, A], [U, B]]
READ: dict[str, tuple[Any, list[list[dict[str, str]]]]] = {
    "the system turn does not recur": (pair([S, U], [U, A], [U, B]), [[S, U, A], [S, U, B]]),
    "the history does not recur": (pair([U, A, Q], [Q, A], [Q, B]), [[U, A, Q, A], [U, A, Q, B]]),
    "the prompt recurs whole": (pair([S, U], [S, U, A], [S, U, B]), [[S, U, A], [S, U, B]]),
    "one side repeats it": (pair([U], [U, A], [B]), PLAIN),
    "several turns follow": (pair([U], [A, Q, A], [A, Q, B]), [[U, A, Q, A], [U, A, Q, B]]),
    "the system turn is in the answers alone": (pair([U], [S, U, A], [S, U, B]), [[S, U, A], [S, U, B]]),
    "the prompt is the last question": (pair("and then ?", [U, A, Q, A], [U, A, Q, B]), [[U, A, Q, A], [U, A, Q, B]]),
    "lists as JSON": (pair(None, json.dumps([U, A]), json.dumps([U, B])), PLAIN),
    "lists as Python": (pair(str([U]), str([A]), str([B])), PLAIN),
    "messages as JSON": ({"messages": json.dumps([U, A])}, [[U, A]]),
    "one message for a list": (pair([U], A, B), PLAIN),
    "ChatML": (pair(CHATML, "in water<|im_end|>", "in milk<|im_end|>"), PLAIN),
    "ChatML, whole": (pair(None, CHATML + "in water<|im_end|>\n", CHATML + "in milk<|im_end|>\n"), PLAIN),
    "Llama 3": (pair(LLAMA, "in water<|eot_id|>", "in milk<|eot_id|>"), PLAIN),
    "Gemma": (pair(GEMMA, "in water<end_of_turn>\n", "in milk<end_of_turn>\n"), PLAIN),
    "HH prompt": (pair("\n\nHuman: how ?\n\nAssistant:", " in water", " in milk"), PLAIN),
    "no blank lines": (pair(None, "Human: how ?\nAssistant: in water", "Human: how ?\nAssistant: in milk"), PLAIN),
    "lower case": (pair(None, "user: how ?\n\nassistant: in water", "user: how ?\n\nassistant: in milk"), PLAIN),
    "a transcript as messages": ({"messages": "User: how ?\nAssistant: in water"}, [[U, A]]),
    "the prompt repeated": (pair("how ?", "how ? in water", "how ? in milk"), PLAIN),
    "a greeting is no repetition": (
        pair("Hi", "Hi there", "Hi friend"),
        [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": t}] for t in ("Hi there", "Hi friend")],
    ),
    "rejected_response": ({"messages": [U, A], "rejected_response": "in milk"}, PLAIN),
    "rejected_response of one": ({"messages": [U, A], "rejected_response": ["in milk"]}, PLAIN),
    "a text part": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "how ?"}]}, A]}, [[U, A]]),
    "null extras": ({"messages": [{**U, "tool_calls": None}, {**A, "name": None, "tool_calls": []}]}, [[U, A]]),
    "a system column": ({**pair("how ?", "in water", "in milk"), "system": "Be brief."}, [[S, U, A], [S, U, B]]),
    "an answer that shows a dialogue": (
        {"prompt": "how ?", "response": "Like so:\nUser: a\nAssistant: b"},
        [[U, {"role": "assistant", "content": "Like so:\nUser: a\nAssistant: b"}]],
    ),
    "a mark that is talked about": (
        {"prompt": "what is <|im_start|> ?", "response": "a mark"},
        [[{"role": "user", "content": "what is <|im_start|> ?"}, {"role": "assistant", "content": "a mark"}]],
    ),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "Mistral": (
        pair("<s>[INST] how ? [/INST]", "in water</s>", "in milk</s>"),
        "'prompt' has chat-template markers",
    ),
    "Mistral without <s>": (pair("[INST] how ? [/INST]", "in water", "in milk"), "'prompt' has chat-template markers"),
    "Llama 2 system": (pair("[INST] <<SYS>>x<</SYS>> how ? [/INST]", "a", "b"), "'prompt' has chat-template markers"),
    "Zephyr": (pair("<|user|>\nhow ?</s>\n<|assistant|>\n", "a", "b"), "'prompt' has chat-template markers"),
    "DeepSeek": (pair("<｜User｜>how ?<｜Assistant｜>", "a", "b"), "'prompt' has chat-template markers"),
    "Alpaca": (pair("### Instruction:\nhow ?\n\n### Response:\n", "a", "b"), "'prompt' has chat-template markers"),
    "a closing mark": ({"prompt": "how ?", "response": "in water</s>"}, "'response' has chat-template markers"),
    "text before ChatML": (pair("x" + CHATML, "a", "b"), "'prompt' has chat-template markers"),
    "a turn left open": (pair("<|im_start|>user\nhow ?", "a", "b"), "'prompt' has chat-template markers"),
    "a NumPy list": (pair(None, "[{'role': 'user'}\n {'role': 'x'}]", "y z"), "'chosen' looks like a message list"),
    "H and A": (pair("H: how ?\nA:", "a", "b"), "'prompt' has transcript labels"),
    "text before the labels": (pair("x\nUser: how ?\nAssistant:", "a", "b"), "'prompt' has transcript labels"),
    "two users": (pair("User: how ?\nUser: so ?\nAssistant:", "a", "b"), "'prompt' has transcript labels"),
    "one label": (pair("Human: how ?", "a", "b"), "'prompt' has transcript labels"),
    "mixed blank lines": (
        pair("User: a\n\nAssistant: b\nUser: c\n\nAssistant:", "a", "b"),
        "'prompt' has transcript labels",
    ),
    "an echo": ({"prompt": "how ?", "response": "how ? in water"}, "'response' starts with the complete prompt"),
    "a prompt that is elsewhere": (pair([U], [Q, A], [Q, B]), "'prompt' is 'how \\?', not in 'chosen'"),
    "rejected beside messages": ({"messages": [U, A], "rejected": "in milk"}, "'rejected' holds another answer"),
    "rejected messages": ({"messages": [U, A], "rejected_messages": [U, A]}, "'rejected_messages' holds another"),
    "plural": ({"messages": [U, A], "rejected_responses": ["x", "y"]}, "'rejected_responses' holds another answer"),
    "rejected beside response": (
        {"prompt": "how ?", "response": "x", "rejected": "y"},
        "another answer beside 'response'",
    ),
    "rejected beside completion": (
        {"prompt": "how ?", "completion": "x", "rejected_completion": "y"},
        "another answer beside 'completion'",
    ),
    "two rejected": ({"messages": [U, A], "rejected_response": ["x", "y"]}, "'rejected_response' holds 2 answers"),
    "another question": ({"question": "how ?", "chosen": "The one", "rejected": "The two"}, "rename 'question'"),
    "two system turns": ({**pair([S, U], [A], [B]), "system": "Be long."}, "two system turns"),
    "images": ({**pair("how ?", "a", "b"), "images": [b"x"]}, "'images' is .* which would be ignored"),
    "tool calls": ({"messages": [U, {**A, "tool_calls": [{"x": 1}]}]}, "unknown field 'messages.1.tool_calls'"),
    "half a pair": ({"prompt": "how ?", "chosen": "a", "rejected": None}, "no conversation in the columns"),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read_as_the_conversation_that_it_is(name: str, tmp_path: Path) -> None:
    row, wanted = READ[name]
    assert read(row) == wanted
    if len(wanted) == 2:
        (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        (trained,) = read_preferences(tmp_path / "p.jsonl")
        assert [[m.model_dump() for m in turns] for turns in (trained.chosen, trained.rejected)] == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unclear_is_refused_by_name(name: str) -> None:
    row, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        read(row)
    assert caught.value.fix
    assert caught.value.place == "rows:1"


def test_a_message_list_is_taken_as_it_stands(tmp_path: Path) -> None:
    strange = {"role": "user", "content": "Human: what is [INST] x [/INST] ?\nAssistant:"}
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": [strange, A]}), encoding="utf-8")
    (row,) = read_conversations(tmp_path / "x.jsonl")
    assert row.answers[0][0].content == strange["content"]
