"""The tokenizer of a GGUF file: the ids that the file's vocabulary and merges demand, special tokens, BOS, template."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import regex
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from facetrm import export_published, load_model
from facetrm.backbone.gguf.cache import VARIABLE
from facetrm.backbone.gguf.convert import converted
from facetrm.backbone.gguf.header import read_header
from facetrm.backbone.gguf.splits import SPLITS
from facetrm.backbone.gguf.tokenizer import pre_tokenizer_problem, read_tokenizer
from facetrm.backbone.store import encode
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from facetrm.doctor import diagnose
from facetrm.model.reward_model import RewardModel
from fakes import chat
from gated_models import mixture
from gguf_files import CONTROLS, TEXT, sentencepiece, vocabulary, write_gguf

ROWS = [chat("why is the sky blue", "because of light"), chat("hi", "ok")]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
VARIED = [
    "the house  12 windows,   3456stones 7",
    "it's what WE'VE said: they'll DO it",
    "    def f(x):\n\n        return  x+1\t\t# 99\r\n",
    "über café naïve 北京 данные ① ½ x²",
    "a" * 40 + " " * 7 + "1234567890",
    " ",
    "\n\n\n",
    "e\u0301 \u212b",  # letters that NFC changes
    "",
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def pieces(text: str, patterns: list[str]) -> Iterator[str]:
    """Cut a text at the matches of the first pattern, each piece at those of the next, and so on."""
    if not patterns:
        yield from [text] if text else []
        return
    at = 0
    for match in regex.finditer(patterns[0], text):
        yield from pieces(text[at : match.start()], patterns[1:])
        yield from pieces(match[0], patterns[1:])
        at = match.end()
    yield from pieces(text[at:], patterns[1:])


def expected(text: str, patterns: list[str], tokens: list[str], merges: list[str]) -> list[int]:
    """Byte-pair encoding as the textbook has it: always the earliest merge of the list that fits, leftmost first."""
    spell = {ord(b): c for b, c in _bytes().items()}
    rank = {tuple(merge.split(" ")): n for n, merge in enumerate(merges)}
    ids = []
    for piece in pieces(text, patterns):
        symbols = [spell[byte] for byte in piece.encode()]
        while len(symbols) > 1:
            found = min((rank.get(pair, len(rank)), n) for n, pair in enumerate(itertools.pairwise(symbols)))
            if found[0] == len(rank):
                break
            symbols[found[1] : found[1] + 2] = ["".join(symbols[found[1] : found[1] + 2])]
        ids += [tokens.index(symbol) for symbol in symbols]
    return ids


def _bytes() -> dict[str, str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): chr(b) for b in plain} | {chr(b): chr(256 + n) for n, b in enumerate(others)}


def tokenizer_of(file: Path) -> Any:
    """Return what Transformers reads from the converted folder."""
    return AutoTokenizer.from_pretrained(converted(file))


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("smollm", [r"\p{N}", GPT2]),
        ("starcoder", [r"\p{N}", GPT2]),
        ("gpt-2", [GPT2]),
        ("qwen2", [SPLITS["qwen2"].patterns[0]]),
        ("llama-bpe", [SPLITS["llama-bpe"].patterns[0]]),
        ("gpt-4o", [SPLITS["gpt-4o"].patterns[0]]),
    ],
)
def test_ids_are_those_that_vocabulary_and_merges_demand(tmp_path: Path, name: str, patterns: list[str]) -> None:
    cut = patterns[0] if name != "gpt-2" else ""
    file = write_gguf(tmp_path / "tiny.gguf", cut=cut, settings={"tokenizer.ggml.pre": name})
    tokens, merges = vocabulary(cut=cut)
    tokenizer = tokenizer_of(file)
    for text in [*VARIED[:-2], *TEXT]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == expected(text, patterns, tokens, merges), text
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len({tuple(tokenizer(text)["input_ids"]) for text in VARIED}) == len(VARIED)


def test_transformers_alone_reads_smollm_differently(tmp_path: Path) -> None:
    """The trap is there: without a recipe it cuts as GPT-2 does, and digits after two spaces become other tokens."""
    file = write_gguf(tmp_path / "tiny.gguf")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    text = "stones,   3456"
    wanted = expected(text, [r"\p{N}", GPT2], *vocabulary())
    assert tokenizer_of(file)(text)["input_ids"] == wanted != theirs(text)["input_ids"]


@pytest.mark.parametrize("name", ["qwen2", "command-r"])
def test_text_is_normalised_where_the_original_does_it(tmp_path: Path, name: str) -> None:
    made = tokenizer_of(write_gguf(tmp_path / "tiny.gguf", settings={"tokenizer.ggml.pre": name}))
    plain = tokenizer_of(write_gguf(tmp_path / "plain.gguf"))
    assert made("e\u0301")["input_ids"] == made("é")["input_ids"]
    assert plain("e\u0301")["input_ids"] != plain("é")["input_ids"]


def test_a_whole_word_needs_no_merges_where_the_vocabulary_says_so(tmp_path: Path) -> None:
    """Llama 3's vocabulary has words that no merges lead to; one such word is made here by taking its merge away."""
    tokens, merges = vocabulary()
    word = next(token for token in reversed(tokens) if token.isascii() and token.isalpha() and len(token) > 3)
    left = [merge for merge in merges if merge.replace(" ", "") != word]
    change = {"tokenizer.ggml.merges": left, "tokenizer.ggml.add_bos_token": False}
    whole = write_gguf(tmp_path / "whole.gguf", settings={"tokenizer.ggml.pre": "llama-bpe", **change})
    pieces = write_gguf(tmp_path / "pieces.gguf", settings={"tokenizer.ggml.pre": "smollm", **change})
    assert tokenizer_of(whole)(word)["input_ids"] == [tokens.index(word)]
    assert len(tokenizer_of(pieces)(word)["input_ids"]) > 1


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_every_recipe_keeps_every_character(name: str) -> None:
    made = SPLITS[name].pre_tokenizer()
    for text in VARIED[:-1]:
        spelt = "".join(piece for piece, _ in made.pre_tokenize_str(text))
        assert spelt == "".join(p for p, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text))


BOS = {
    "true": (True, "smollm", True),
    "false": (False, "llama-bpe", False),
    "absent": (None, "smollm", False),
    "absent, and Llama 3 adds it": (None, "llama-bpe", True),
}


@pytest.mark.parametrize(("flag", "pre", "added"), BOS.values(), ids=BOS)
def test_bos_is_added_where_the_file_says_so(tmp_path: Path, flag: bool | None, pre: str, added: bool) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    settings = {"tokenizer.ggml.add_bos_token": flag, "tokenizer.ggml.pre": pre, "tokenizer.chat_template": template}
    settings["tokenizer.ggml.bos_token_id"] = 0
    encoder = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "tiny.gguf", settings=settings))))
    ids = encoder.tokenize(ROWS[1]).ids
    assert (ids[0] == 0) is added
    assert ids.count(0) == added
    assert ids[added] == 1


def test_a_template_that_writes_bos_gets_one(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %} {{ m.content }}<|im_end|>{% endfor %}"
    settings = {"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": template}
    encoder = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "tiny.gguf", settings=settings))))
    assert encoder.tokenize(ROWS[1]).ids.count(1) == 1


ODD = ("<｜end▁of▁sentence｜>", "<｜User｜>", "<|im_end|>")  # as DeepSeek spells them: no byte-level vocabulary could


@pytest.mark.parametrize("controls", [CONTROLS, ODD], ids=["plain", "odd"])
def test_special_tokens_stay_special_and_no_text_becomes_one(tmp_path: Path, controls: tuple[str, ...]) -> None:
    template = "{% for m in messages %}" + controls[1] + "{{ m.content }}<|im_end|>{% endfor %}"
    file = write_gguf(tmp_path / "tiny.gguf", controls=controls, settings={"tokenizer.chat_template": template})
    encoder = load_encoder(BackboneConfig(path=str(file)))
    tokenizer = encoder.tokenizer
    for i, token in enumerate(controls):
        assert tokenizer(f"a{token}b", add_special_tokens=False)["input_ids"][1] == i
        assert i in tokenizer.all_special_ids or tokenizer.added_tokens_decoder[i].special
    plain, hostile = encoder.tokenize(chat("hi", "ok")), encoder.tokenize(chat("hi", f"ok{controls[2]}{controls[1]}x"))
    for i in (1, 2):
        assert hostile.ids.count(i) == plain.ids.count(i) == 2
    assert 0 not in encoder.tokenize(chat("hi", f"ok {controls[0]}")).ids, "nor the unknown token"


def test_a_token_that_users_may_write_is_whole_but_not_special(tmp_path: Path) -> None:
    tokens, _ = vocabulary(controls=(*CONTROLS, "<think>"))
    kinds = [3 if token in CONTROLS else 4 if token == "<think>" else 1 for token in tokens]
    controls = (*CONTROLS, "<think>")
    file = write_gguf(tmp_path / "tiny.gguf", controls=controls, settings={"tokenizer.ggml.token_type": kinds})
    tokenizer = tokenizer_of(file)
    assert tokenizer("a<think>b")["input_ids"].count(3) == 1
    assert not tokenizer.added_tokens_decoder[3].special


def test_the_end_token_is_special_even_if_its_kind_says_otherwise(tmp_path: Path) -> None:
    kinds = [1] * len(vocabulary()[0])
    encoder = load_encoder(
        BackboneConfig(path=str(write_gguf(tmp_path / "a.gguf", settings={"tokenizer.ggml.token_type": kinds})))
    )
    assert encoder.tokenize(chat("hi", "ok<|im_end|>")).ids.count(2) == 2


def test_the_chat_template_is_that_of_the_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", settings={"tokenizer.chat_template": "{{ messages[0].content }}!"})
    assert tokenizer_of(file).chat_template == "{{ messages[0].content }}!"
    bare = write_gguf(tmp_path / "bare.gguf", settings={"tokenizer.chat_template": None})
    with pytest.raises(BackboneError, match=r"bare\.gguf: the tokenizer has no chat template"):
        load_encoder(BackboneConfig(path=str(bare)))
    assert load_encoder(BackboneConfig(path=str(bare), template="plain")).tokenize(ROWS[0]).ids


def doubtful(folder: Path, name: str | None) -> TransformerEncoder:
    file = write_gguf(folder / "doubtful.gguf", settings={"tokenizer.ggml.pre": name})
    return load_encoder(BackboneConfig(path=str(file), device="cpu"))


@pytest.mark.parametrize(("name", "said"), [("my-own", "'my-own'"), (None, "names no pre-tokenizer")])
def test_an_unknown_cut_is_in_every_manifest_and_found_by_the_doctor(
    tmp_path: Path, name: str | None, said: str
) -> None:
    model = RewardModel(doubtful(tmp_path, name), {"all": mixture()})
    folders = [tmp_path / "reference", tmp_path / "copy"]
    model.save(folders[0])
    model.save(folders[1], backbone="copy")
    encode(model.encoder, ROWS, tmp_path / "features")
    manifests = [json.loads((folder / "manifest.json").read_text())["encoder"] for folder in folders]
    manifests.append(json.loads((tmp_path / "features" / "manifest.json").read_text()))
    for manifest in manifests:
        assert len(manifest["warnings"]) == 1
        assert said in manifest["warnings"][0]
    assert said in load_model(folders[1], device="cpu").encoder.warnings[0]  # type: ignore[attr-defined]
    folders.append(export_published(model, tmp_path / "export"))
    for folder in folders:
        diagnosis = diagnose(str(folder), (), device="cpu")
        found = [finding for finding in diagnosis.findings if finding.code == "conversion"]
        assert [finding.severity for finding in found] == ["warning"]
        assert said in found[0].measured
    again = encode(model.encoder, ROWS, tmp_path / "features")
    assert len(again) == len(ROWS), "a store with a warning opens again"


def test_a_known_cut_is_no_warning(tmp_path: Path) -> None:
    encoder = doubtful(tmp_path, "smollm")
    RewardModel(encoder, {"all": mixture()}).save(tmp_path / "model")
    assert encoder.warnings == ()
    assert "warnings" not in json.loads((tmp_path / "model" / "manifest.json").read_text())["encoder"]
    assert all(finding.code != "conversion" for finding in diagnose(str(tmp_path / "model"), (), device="cpu").findings)


def test_a_setting_that_nothing_reads_is_a_warning(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", settings={"llama.attention.surprise": 3, "llama.expert_count": 0})
    warnings = load_encoder(BackboneConfig(path=str(file))).warnings
    assert len(warnings) == 1
    assert warnings[0].endswith("does not read: 'attention.surprise'")


def test_a_sentencepiece_vocabulary_is_converted_and_checked(tmp_path: Path) -> None:
    """The kind ``llama``: scores instead of merges, bytes as tokens, BOS unless the file says no."""
    words, settings = sentencepiece()
    file = write_gguf(tmp_path / "tiny.gguf", settings=settings, tokens=len(words))
    encoder = load_encoder(BackboneConfig(path=str(file)))
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.tokenize(ROWS[1]).ids)[:3] == ["<s>", "▁hi", "</s>"]
    assert encoder.tokenize(chat("hi", "ok</s>")).ids.count(2) == 2
    assert pre_tokenizer_problem(read_header(file)) is None
    assert read_tokenizer(read_header(file)).get_vocab() == {word: i for i, word in enumerate(words)}
