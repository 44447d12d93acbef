"""A language model that answers: its own template, the likeliest tokens, seeds, and clear errors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from facetrm import Desk
from facetrm.backbone.gguf.cache import VARIABLE
from facetrm.backbone.gguf.convert import converted
from facetrm.backbone.language_model import LanguageModel
from facetrm.core.errors import BackboneError
from facetrm.data.desk.sampled import sample_answers
from facetrm.data.records import Message
from gguf_files import write_gguf
from model_files import config, weights

PROMPT = (Message(role="user", content="why is the tree by the river"),)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return converted(write_gguf(tmp_path / "tiny.gguf"))


def by_hand(folder: Path, messages: Sequence[Message], count: int) -> str:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    turns = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(count):
        with torch.no_grad():
            new = model(ids).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, new], dim=1)
        if new.item() == model.generation_config.eos_token_id:
            break
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_the_likeliest_tokens_after_the_template(folder: Path) -> None:
    model = LanguageModel(str(folder), device="cpu", max_new_tokens=12)
    assert model.answer(PROMPT) == by_hand(folder, PROMPT, 12) != ""
    assert LanguageModel(str(folder), device="cpu", max_new_tokens=3).answer(PROMPT) == by_hand(folder, PROMPT, 3)


def test_an_answer_depends_on_seed_and_conversation_only(folder: Path) -> None:
    warm = {"device": "cpu", "max_new_tokens": 12, "temperature": 1.5}
    one, other = LanguageModel(str(folder), seed=1, **warm), LanguageModel(str(folder), seed=2, **warm)
    first = one.answer(PROMPT)
    one.answer((Message(role="user", content="with 12 windows"),))
    assert first == one.answer(PROMPT) != other.answer(PROMPT)


def test_answers_are_measured_at_the_desk(folder: Path) -> None:
    model = LanguageModel(str(folder), device="cpu", max_new_tokens=4)
    found = list(sample_answers(Desk(), model.answer, 3))
    assert all(0.0 <= one.utility < 1.0 for one in found), "noise does nothing right"
    assert all(one.messages[-1].content == (model.answer(one.messages[:-1]) or "...") for one in found)


def test_what_cannot_answer_says_why(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BackboneError, match="no such folder"):
        LanguageModel(str(tmp_path / "nothing"), device="cpu")
    config(Path(shutil.copytree(folder, tmp_path / "other")), model_type="vit")
    with pytest.raises(BackboneError, match="not a causal language model"):
        LanguageModel(str(tmp_path / "other"), device="cpu")
    config(Path(shutil.copytree(folder, tmp_path / "code")), _attn_implementation="theirs/attention")
    with pytest.raises(BackboneError, match="code of others"):
        LanguageModel(str(tmp_path / "code"), device="cpu")
    headless = shutil.copytree(converted(write_gguf(tmp_path / "untied.gguf", tied=False)), tmp_path / "headless")
    weights(headless, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(BackboneError, match=r"'lm_head.weight' is missing, so answers would be random"):
        LanguageModel(str(headless), device="cpu")
    with pytest.raises(BackboneError, match="at least 1 token"):
        LanguageModel(str(folder), device="cpu", max_new_tokens=0)
