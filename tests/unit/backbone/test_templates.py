"""Every form of chat template, from messages through the engine: the ids that were meant, and their vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.data.records import Conversation
from fakes import CHATML, LLAMA3, chat, tiny_decoder, tiny_tokenizer

FOLDED = (
    "{{ bos_token }}{% set told = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if told else messages) %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ told if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
# Reasoning is kept behind the last question only, where an answer without any gets an empty block; a generation prompt
# opens one.
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text, thought = m.content, '' %}"
    "{% if m.role == 'assistant' and '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
PREFILLED = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
DATED = LLAMA3.replace("{{ bos_token }}", "{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}\n")
GIVEN_DATE = LLAMA3.replace("{{ bos_token }}", "{{ bos_token }}Today: {{ date_string }}\n")

L = ("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>").format
M = "<|im_start|>{}\n{}<|im_end|>\n".format
G = "<start_of_turn>{}\n{}<end_of_turn>\n".format
BOS = "<|begin_of_text|>"
FIXED = f"{BOS}Today: 26 Jul 2024\n"
ASKED = chat("hi", "yes")
TOLD = chat("one", "two", "three", "four", system="be brief")
THOUGHT = chat("one", "<think>\nhm\n</think>\n\ntwo", "three", "<think>\nso\n</think>\n\nfour")

# style of the tokenizer, template, whether the tokenizer adds BOS, conversation, the prompt up to its end, the rest
# up to the response's text, the response and what follows
CASES: dict[str, tuple[str, str, bool, Conversation, str, str, str]] = {
    "system folded into the first turn": (
        "gemma", FOLDED, True, TOLD,
        ("<bos>" + G("user", "be brief\n\none") + G("model", "two") + G("user", "three"))[:-1],
        "\n<start_of_turn>model\n", "four<end_of_turn>\n",
    ),
    "no system turn to fold": (
        "gemma", FOLDED, True, ASKED, f"<bos>{G('user', 'hi')}"[:-1], "\n<start_of_turn>model\n", "yes<end_of_turn>\n",
    ),
    "BOS in the template": (
        "llama3", LLAMA3, False, ASKED, BOS + L("user", "hi"), L("assistant", "yes")[:-13], "yes<|eot_id|>",
    ),
    "BOS in both": (
        "llama3", LLAMA3, True, ASKED, BOS + L("user", "hi"), L("assistant", "yes")[:-13], "yes<|eot_id|>",
    ),
    "BOS by the tokenizer alone": (
        "llama3", LLAMA3.removeprefix("{{ bos_token }}"), True, ASKED,
        BOS + L("user", "hi"), L("assistant", "yes")[:-13], "yes<|eot_id|>",
    ),
    "BOS nowhere": (
        "llama3", LLAMA3.removeprefix("{{ bos_token }}"), False, ASKED,
        L("user", "hi"), L("assistant", "yes")[:-13], "yes<|eot_id|>",
    ),
    "an empty think block is added": (
        "chatml", THINKING, False, TOLD,
        (M("system", "be brief") + M("user", "one") + M("assistant", "two") + M("user", "three"))[:-1],
        "\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "four<|im_end|>\n",
    ),
    "earlier reasoning is stripped, the last is kept": (
        "chatml", THINKING, False, THOUGHT,
        (M("user", "one") + M("assistant", "two") + M("user", "three"))[:-1],
        "\n<|im_start|>assistant\n<think>\n", "so\n</think>\n\nfour<|im_end|>\n",
    ),
    "a generation prompt that opens a think block": (
        "chatml", PREFILLED, False, ASKED, M("user", "hi")[:-1], "\n<|im_start|>assistant\n", "yes<|im_end|>\n",
    ),
    "a date by strftime_now": (
        "llama3", DATED, True, ASKED, FIXED + L("user", "hi"), L("assistant", "yes")[:-13], "yes<|eot_id|>",
    ),
    "a date by date_string": (
        "llama3", GIVEN_DATE, True, ASKED, FIXED + L("user", "hi"), L("assistant", "yes")[:-13], "yes<|eot_id|>",
    ),
}  # fmt: skip


def made(style: str, template: str, *, adds_bos: bool) -> tuple[PreTrainedTokenizerFast, LlamaModel]:
    tokenizer = tiny_tokenizer(style)
    if not adds_bos:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return tokenizer, LlamaModel(LlamaConfig(**shape, vocab_size=len(tokenizer), initializer_range=0.3)).eval()


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("name", list(CASES))
def test_what_the_template_means_is_what_is_read(name, mode):
    style, template, adds_bos, conversation, prompt, header, answer = CASES[name]
    tokenizer, trunk = made(style, template, adds_bos=adds_bos)
    config = BackboneConfig(path="in memory", device="cpu", max_tokens=512, mode=mode)
    encoder = TransformerEncoder(trunk, tokenizer, config=config)
    row = encoder.tokenize(conversation)
    assert tokenizer.decode(row.ids[: row.prompt_end + 1]) == prompt
    assert tokenizer.decode(row.ids[row.prompt_end + 1 : row.response_start]) == header
    assert tokenizer.decode(row.ids[row.response_start :]) == answer
    ids = tokenizer(prompt + header + answer, add_special_tokens=False)["input_ids"]
    end = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) - 1
    beside = [chat("hi", "no"), conversation, chat("what?", "a longer answer"), (*conversation[:-1], ASKED[-1])]
    features = encoder.encode(beside)
    with torch.no_grad():
        states_LD = trunk(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    assert torch.allclose(features.prompt_ND[1], states_LD[end], atol=1e-5)
    assert torch.allclose(features.response_NAD[1, 0], states_LD[-1], atol=1e-5)
    assert (features.response_NAD[0, 0] - states_LD[-1]).abs().max() > 0.01
    assert torch.equal(features.prompt_ND[1], features.prompt_ND[3]) or mode == "exact"


def test_a_date_that_is_fixed_is_said_once(tmp_path, capfd):
    folder = tiny_decoder(tmp_path / "llama")
    (folder / "chat_template.jinja").write_text(DATED)
    encoder = load_encoder(BackboneConfig(path=str(folder), device="cpu", date="1 Jan 2030"))
    encoder.encode([ASKED, TOLD])
    encoder.encode([ASKED])
    said = capfd.readouterr().err
    assert said.count("the chat template prints today's date") == 1
    assert '"instead": "1 Jan 2030"' in said
    assert '"setting": "backbone.date"' in said
    assert "1 Jan 2030" in encoder.tokenizer.decode(encoder.tokenize(ASKED).ids)


def test_a_template_without_a_date_says_nothing(tmp_path, capfd):
    folder: Path = tiny_decoder(tmp_path / "llama")
    load_encoder(BackboneConfig(path=str(folder), device="cpu")).encode([ASKED])
    assert capfd.readouterr().err == ""
