"""Weights of every type, code that comes along, what the loader refuses, and words that nobody taught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from facetrm.core.errors import FacetrmError
from facetrm.data.records import Message
from facetrm.data.world import World
from facetrm.doctor.artefact import read_artefact
from facetrm.doctor.diagnosis import diagnose
from facetrm.doctor.findings import Finding
from facetrm.doctor.words import unknown_words
from facetrm.hub.load import load_model
from model_files import config, found, weights
from planting import planted

TALK = next(World().ratings(1)).messages


# --- tensors of every type, code of every kind


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e4m3fnuz,
        torch.float8_e8m0fnu,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.bool,
    ],
)
def test_tensors_of_every_type_are_read(dtype: torch.dtype, folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights(folder, lambda t: t.update({name: torch.ones(t[name].shape).to(dtype), "score.weight": t["score.weight"]}))
    assert not {"weights-not-finite", "weights-unread", "does-not-load"} & found(folder).keys()
    weights(folder, lambda t: t.update({"score.weight": torch.ones(1, planted.SIZE).to(dtype)}))
    assert "head-untrained" in found(folder)


def test_complex_numbers_are_read(folder: Path) -> None:
    bad = torch.full((64, 32), complex(1, float("inf")), dtype=torch.complex64)
    weights(folder, lambda t: t.update({"model.layers.1.mlp.up_proj.weight": bad}))
    assert "weights-not-finite" in found(folder)


def test_a_nan_in_float8_is_found(folder: Path) -> None:
    def plant(t: dict[str, torch.Tensor]) -> None:
        t["model.layers.1.mlp.up_proj.weight"] = torch.full((64, 32), float("nan")).to(torch.float8_e4m3fn)
        t["score.weight"] = torch.full((1, planted.SIZE), float("nan")).to(torch.float8_e5m2)

    weights(folder, plant)
    assert {"weights-not-finite", "head-not-finite"} <= found(folder).keys()


@pytest.mark.parametrize(("kind", "bits"), [("F4", 4), ("F6_E2M3", 6)])
def test_packed_numbers_are_said_to_be_unread(kind: str, bits: int, folder: Path) -> None:
    header = json.dumps({"packed": {"dtype": kind, "shape": [8], "data_offsets": [0, bits]}}).encode()
    (folder / "packed.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(bits))
    finding = found(folder)["weights-unread"]
    assert (finding.severity, finding.measured) == ("note", "packed")


@pytest.mark.parametrize("model_type", ["llama", "nobodys"])
def test_code_of_a_folder_is_neither_run_nor_asked_for(
    model_type: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("the user was asked")

    monkeypatch.setattr("builtins.input", asked)
    (folder / "mine.py").write_text("open(__file__ + '.ran', 'w').write('x')\n")
    everything = {f"Auto{kind}": "mine.Mine" for kind in ("Config", "Model", "ModelForSequenceClassification")}
    config(folder, auto_map=everything, model_type=model_type)
    config(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]})
    seen = diagnose(str(folder), [], device="cpu")
    with_data = diagnose(str(folder), [[TALK]], device="cpu")
    for diagnosis in (seen, with_data):
        assert "remote-code" in [finding.code for finding in diagnosis.findings]
    assert not list(folder.glob("*.ran"))
    needed = found(folder)["remote-code"].problem
    assert needed == (
        "the folder comes with Python code" if model_type == "llama" else "the model needs Python code from its folder"
    )


# --- without data, what score refuses


def refused(folder: Path) -> Finding:
    diagnosis = diagnose(str(folder), [], device="cpu")
    assert diagnosis.exit_code == 3
    with pytest.raises(FacetrmError) as caught:
        load_model(folder, device="cpu")
    (finding,) = (one for one in diagnosis.findings if one.code == "does-not-load")
    assert finding.severity == "error"
    assert caught.value.problem in finding.measured
    return finding


@pytest.mark.parametrize("architecture", ["LlamaForTokenClassification", "LlamaModel"])
def test_what_the_loader_refuses_is_never_healthy(architecture: str, folder: Path) -> None:
    config(folder, architectures=[architecture])
    refused(folder)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "LlamaForRewardModel"])
def test_what_the_loader_reads_under_another_class_is_not_refused(architecture: str, folder: Path) -> None:
    config(folder, architectures=[architecture])
    assert load_model(folder, device="cpu").tasks == ("all",)
    assert "does-not-load" not in [finding.code for finding in diagnose(str(folder), [], device="cpu").findings]


def test_a_gguf_file_is_not_healthy(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(64))
    assert read_artefact(str(tmp_path)).kind == "gguf"
    refused(tmp_path)


def test_an_allowed_error_does_not_hide_that_the_model_does_not_load(folder: Path) -> None:
    weights(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    assert [f.code for f in diagnose(str(folder), [], device="cpu").counted][:1] == ["weights-missing"]
    allowed = diagnose(str(folder), [], device="cpu", allowed=["weights-missing", "unknown-words"])
    assert [f.code for f in allowed.counted] == ["does-not-load"]


# --- words that the tokenizer does not know


def test_unknown_words_are_counted_in_the_data_and_else_in_plain_english(folder: Path) -> None:
    (english,) = (f for f in diagnose(str(folder), [], device="cpu").findings if f.code == "unknown-words")
    assert english.severity == "warning"
    assert "plain English" in english.problem
    strange = (Message(role="user", content="zorgle blorptix"), Message(role="assistant", content="flumph"))
    (data,) = (f for f in diagnose(str(folder), [[strange]], device="cpu").findings if f.code == "unknown-words")
    assert (data.severity, data.measured.split(":")[0]) == ("error", "3 of 3 tokens are unknown")
    codes = [f.code for f in diagnose(str(folder), [[TALK]], device="cpu").findings]
    assert "unknown-words" not in codes


def test_a_tokenizer_that_drops_unknown_words_is_not_better() -> None:
    class Dropping:
        unk_token_id = None

        def __call__(self, word: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [1] if word.isascii() else []}

    read = unknown_words(Dropping(), ["plain ü ö"])  # type: ignore[arg-type]
    assert (read.tokens, read.unknown, read.examples) == (3, 2, ("ü", "ö"))
