"""GGUF files that would give wrong scores, or none: each is refused with the file, the value and the fix."""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facetrm.backbone.gguf.cache import VARIABLE, cache_folder
from facetrm.backbone.gguf.convert import converted
from facetrm.backbone.gguf.header import read_header
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import LONGEST, BackboneError
from fakes import chat
from gguf_files import HEADS, HIDDEN, INNER, sentencepiece, vocabulary, write_gguf


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def refused(file: Path) -> str:
    """Return the message; it names the file and the fix, is short, and nothing is left in the cache."""
    with pytest.raises(BackboneError) as caught:
        load_encoder(BackboneConfig(path=str(file)))
    error = caught.value
    assert error.place is not None
    assert error.place.startswith(str(file))
    assert error.fix
    assert len(str(error)) < 2 * LONGEST
    left = list((cache_folder() / "gguf").glob("*-v*")) if cache_folder().exists() else []
    assert left == []
    return str(error)


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    header = read_header(tmp_path / "whole.gguf")
    first = min(tensor.start for tensor in header.tensors.values())
    file = tmp_path / "cut.gguf"
    for size in (5, 23, 30, first // 2, first - 40, first + 1, len(whole) // 2, len(whole) - 64):
        file.write_bytes(whole[:size])
        assert "not a whole GGUF file" in refused(file)
    assert len(whole) - first > 64


@pytest.mark.parametrize("data", [b"", b"GG", b"not a model" * 100, b"PK\x03\x04" + bytes(100)])
def test_a_file_of_another_kind(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    assert "not a whole GGUF file" in refused(tmp_path / "x.gguf")


HEADS_OF_FILES = {
    "version 1": (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1, not 2 or 3"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "it is big-endian"),
    "endless settings": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), "it claims 1,152,921,504,606,846,976 settings"),
    "endless tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 40, 0), "it claims 1,099,511,627,776 tensors"),
    "an endless array": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 1 << 62) + bytes(64),
        "inside a value that ends at",
    ),
    "an endless list of texts": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 1 << 62) + bytes(64),
        "inside a value that ends at",
    ),
    "an array of arrays": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 9, 1) + bytes(64),
        "an array of type 9",
    ),
    "no architecture": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), "names no architecture"),
}


@pytest.mark.parametrize(("data", "said"), HEADS_OF_FILES.values(), ids=HEADS_OF_FILES)
def test_a_header_that_claims_what_is_not_there(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    assert said in refused(tmp_path / "x.gguf")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(BackboneError, match="not a regular file"):
        read_header(tmp_path / "x.gguf")
    with pytest.raises(BackboneError):
        load_encoder(BackboneConfig(path=str(tmp_path / "x.gguf")))


NAMES = "model.layers.0.mlp.up_proj.weight"
WIDE = {"blk.0.ffn_up.weight": np.zeros((INNER + 32, HIDDEN), np.float32)}
BIAS = {"blk.0.attn_q.bias": np.zeros(HIDDEN, np.float32)}
FILES: dict[str, tuple[dict[str, Any], str]] = {
    "an architecture that nobody knows": ({"architecture": "flibber"}, r"architecture 'flibber' cannot be read"),
    "a missing tensor": ({"without": ["blk.0.ffn_up.weight"]}, rf"tensors missing: {NAMES}; download it again"),
    "a missing norm": ({"without": ["output_norm.weight"]}, "tensors missing: model.norm.weight"),
    "a missing embedding": ({"without": ["token_embd.weight"]}, "tensors missing: "),
    "many missing tensors": ({"without": [f"blk.1.ffn_{x}.weight" for x in ("up", "down", "gate", "norm")]}, "1 more"),
    "a missing layer": ({"settings": {"llama.block_count": 3}}, "tensors missing: model.layers.2.input_layernorm"),
    "a layer too many": ({"settings": {"llama.block_count": 1}}, r"such as 'blk\.1\.attn_k\.weight'"),
    "a tensor that the model does not take": (
        {"extra": BIAS},
        r"hold [\d,]+ numbers, .*such as 'blk\.0\.attn_q\.bias'",
    ),
    "a wrong shape": ({"extra": WIDE}, f"tensors of another shape: {NAMES}"),
    "no vocabulary": ({"settings": {"tokenizer.ggml.tokens": None}}, "the file has no vocabulary"),
    "no kind of vocabulary": ({"settings": {"tokenizer.ggml.model": None}}, "the file has no vocabulary"),
    "an unknown kind of vocabulary": ({"settings": {"tokenizer.ggml.model": "runes"}}, "of kind 'runes' cannot be"),
    "no merges": ({"settings": {"tokenizer.ggml.merges": None}}, "byte-level vocabulary without merges"),
    "merges of other tokens": ({"settings": {"tokenizer.ggml.merges": ["qq zz"]}}, "its merges do not fit"),
    "a merge of one token": ({"settings": {"tokenizer.ggml.merges": ["abc"]}}, "a merge is not two tokens"),
    "kinds of other tokens": ({"settings": {"tokenizer.ggml.token_type": [1, 3]}}, "has 2 entries for"),
    "an id beyond the vocabulary": ({"settings": {"tokenizer.ggml.eos_token_id": 9999}}, "eos_token_id' is 9999"),
    "a vocabulary that the converter adds to": (
        {"settings": {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * len(vocabulary()[0])}},
        "has the token '<(unk|s|/s)>', which the file has not",
    ),
    "BOS without a token": (
        {"settings": {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}},
        "is true, but the file names no such token",
    ),
    "a template that is no text": ({"settings": {"tokenizer.chat_template": 3}}, "'tokenizer.chat_template' is 3"),
    "a part of a model": ({"settings": {"split.count": 3}}, "one of 3 parts of a model; join them"),
    "scaled positions": (
        {"settings": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
        "its positions are scaled \\('linear' by 4.0\\)",
    ),
    "positions scaled the old way": ({"settings": {"llama.rope.scale_linear": 2.0}}, "'linear' by 2.0"),
    "yarn": ({"settings": {"llama.rope.scaling.type": "yarn"}}, "its positions are scaled \\('yarn'"),
    "frequencies of nobody": (
        {"extra": {"rope_freqs.weight": np.linspace(1, 7, HIDDEN // HEADS // 2, dtype=np.float32)}},
        r"divided by 1 to 7 \(rope_freqs\)",
    ),
}


@pytest.mark.parametrize(("changes", "said"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_give_right_scores(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    message = refused(write_gguf(tmp_path / "tiny.gguf", **changes))
    assert re.search(said, message), message


def test_tensors_that_nobody_can_dequantise(tmp_path: Path) -> None:
    """A type without code in the library: TQ would need rows of 256, so the table of the file is changed instead."""
    file = write_gguf(tmp_path / "tiny.gguf", kind="Q8_0")
    data = bytearray(file.read_bytes())
    at = data.index(b"blk.0.ffn_up.weight") + len("blk.0.ffn_up.weight") + 4 + 16
    assert struct.unpack_from("<I", data, at)[0] == 8, "Q8_0"
    struct.pack_into("<I", data, at, 9)  # Q8_1: slightly larger, known, and never written to files
    file.write_bytes(data)
    assert "cannot be read" in refused(file) or "not a whole" in refused(file)
    struct.pack_into("<I", data, at, 99)
    file.write_bytes(data)
    assert "the unknown type 99" in refused(file)


def test_frequencies_of_llama_3_are_carried_over(tmp_path: Path) -> None:
    """The file divides the frequencies; the folder states the four settings from which Transformers computes them."""
    half, theta = HIDDEN // HEADS // 2, 500000.0
    wave = 2 * math.pi * theta ** (np.arange(half) / half)
    smooth = (8192 / wave - 1) / 3
    factors = np.where(wave < 2048, 1.0, np.where(wave > 8192, 32.0, 1 / ((1 - smooth) / 32 + smooth)))
    extra = {"rope_freqs.weight": factors.astype(np.float32)}
    settings = {"llama.rope.freq_base": theta}
    plain = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "plain.gguf", settings=settings))))
    file = write_gguf(tmp_path / "tiny.gguf", extra=extra, settings=settings)
    scaled = load_encoder(BackboneConfig(path=str(file)))
    old, new = (encoder.model.rotary_emb.inv_freq for encoder in (plain, scaled))  # type: ignore[operator,union-attr]
    assert torch.allclose(old / new, torch.tensor(factors, dtype=torch.float32), rtol=1e-4)
    assert scaled.model.config.rope_parameters["rope_type"] == "llama3"
    rows = [chat("hi", "ok " * 40)]
    assert not torch.allclose(plain.encode(rows).response_NAD, scaled.encode(rows).response_NAD, atol=1e-3)


def test_frequencies_that_are_not_divided_change_nothing(tmp_path: Path) -> None:
    ones = {"rope_freqs.weight": np.ones(HIDDEN // HEADS // 2, np.float32)}
    with_ones = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "ones.gguf", extra=ones))))
    without = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "plain.gguf"))))
    assert with_ones.fingerprint == without.fingerprint


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_code_beside_the_file_never_runs(tmp_path: Path, model: str) -> None:
    """A folder may hold a configuration that asks for its own code; only the GGUF file is read."""
    auto = '{"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}'
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\nclass T: pass"
    )
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(f'{{"model_type": "llama", "auto_map": {auto}, "chat_template": "evil"}}')
    words, settings = sentencepiece()
    changes: dict[str, Any] = {"settings": settings, "tokens": len(words)} if model == "llama" else {}
    file = write_gguf(tmp_path / "tiny.gguf", **changes)
    for trust in (False, True):
        encoder = load_encoder(BackboneConfig(path=str(file), trust_remote_code=trust))
        assert encoder.model.config.model_type == "llama"
        assert encoder.tokenizer.chat_template != "evil"
    assert not (tmp_path / "ran").exists()
    assert not hasattr(encoder.model.config, "auto_map")


def test_the_converted_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    folder = converted(write_gguf(tmp_path / "tiny.gguf", kind="Q4_1"))
    text = (folder / "config.json").read_text()
    assert "quantization_config" not in text
    assert '"format": "gguf"' in text
    assert "Tiny" not in text, "the title of the file is not part of the model"
    assert load_encoder(BackboneConfig(path=str(folder))).fingerprint
