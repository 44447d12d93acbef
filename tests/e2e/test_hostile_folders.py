"""Folders of others: nothing in one runs code, reaches out of it, or makes the loader build what it does not hold."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import save_file
from test_bad_models import spoiled

from command_line import command
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import FacetrmError, ModelError
from facetrm.hub.load import load_model
from facetrm.model.store import model_hash
from facetrm.recipes.run import Run
from tiny_runs import GOOD, write_rows

CODE = 'import pathlib\npathlib.Path({mark!r}).write_text("ran")\nfrom transformers import LlamaModel as Evil\n'


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a scalar reward model in Transformers' layout."""
    folder = tmp_path / "classifier"
    config = tf.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_labels=1,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tf.LlamaForSequenceClassification(config).save_pretrained(folder)
    from facetrm.backbone.tiny import word_tokenizer

    tokenizer = word_tokenizer(["hello", "world", "good", "bad"], max_tokens=64)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def edited(folder: Path, name: str, **entries: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def signed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a manifest as somebody does who knows how its hash is made."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest.pop("checksum", None)
    manifest["hash"] = model_hash(manifest)
    path.write_text(json.dumps(manifest))


def no_asking(*_: object) -> str:
    raise AssertionError("standard input was read")


@pytest.mark.parametrize("verb", ["score", "doctor"])
@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_in_a_folder_never_runs_and_nobody_is_asked(
    where: str, verb: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    (checkpoint / "evil.py").write_text(CODE.format(mark=str(mark)))
    if where == "config.json":
        auto = dict.fromkeys(("AutoModel", "AutoModelForSequenceClassification", "AutoConfig"), "evil.Evil")
        edited(checkpoint, where, auto_map=auto, model_type="evil", trust_remote_code=True)
    else:
        edited(checkpoint, where, auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil")
    monkeypatch.setattr("builtins.input", no_asking)
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    said = command(verb, checkpoint, "--data", rows)
    assert not mark.exists()
    assert "internal error" not in said.err
    assert said.code in (0, 2, 3)


def test_a_manifest_cannot_ask_for_code(tiny_run: Run, tmp_path: Path) -> None:
    folder = spoiled(tiny_run, tmp_path)
    signed(folder, lambda manifest: manifest["encoder"]["spec"].update(trust_remote_code=True))
    with pytest.raises(ModelError, match=r"'encoder\.spec\.trust_remote_code' is true"):
        load_model(folder)
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        tf.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    for verb in ("score", "explain"):
        said = command(verb, folder, "--data", rows)
        assert said.code == 2
        assert "--trust-remote-code" in said.err
        assert command(verb, folder, "--data", rows, "--trust-remote-code").code == 0  # the caller's own word
    assert load_model(folder, trust_remote_code=True).score([]) == []
    for asked in ([], ["--data", rows]):  # the doctor says what loading says, and takes the same word
        said = command("doctor", folder, "--json", *asked)
        assert "does-not-load" in said.out
        assert "--trust-remote-code" in said.out
        assert "does-not-load" not in command("doctor", folder, "--json", *asked, "--trust-remote-code").out


def copied(tiny_run: Run, folder: Path) -> Path:
    """Return a model folder that holds its backbone."""
    load_model(tiny_run.folder).save(folder, backbone="copy")
    return folder


@pytest.mark.parametrize("place", ["../elsewhere", "backbone/../../elsewhere", "/etc", "backbone/out"])
def test_a_copied_backbone_stays_inside(place: str, tiny_run: Run, tmp_path: Path) -> None:
    folder = copied(tiny_run, tmp_path / "model")
    shutil.copytree(folder / "backbone", tmp_path / "elsewhere")
    (folder / "backbone" / "out").symlink_to(tmp_path)
    signed(folder, lambda manifest: manifest["encoder"]["spec"].update(path=place))
    with pytest.raises(ModelError, match="is outside the folder"):
        load_model(folder)


def test_a_copied_backbone_reads_no_template_from_elsewhere(tiny_run: Run, tmp_path: Path) -> None:
    folder = copied(tiny_run, tmp_path / "model")
    signed(folder, lambda manifest: manifest["encoder"]["spec"].update(template="/dev/zero"))
    with pytest.raises(ModelError, match=r"'encoder\.spec\.template' names a file"):
        load_model(folder)


def test_a_template_is_a_regular_file_of_bounded_size(tiny_run: Run, tmp_path: Path) -> None:
    path = str(tiny_run.folder / "backbone")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * (1 << 21))
    for name in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path / "long"), str(tmp_path)):
        with pytest.raises(FacetrmError, match=r"template|folder"):
            load_encoder(BackboneConfig(path=path, template=name))


def test_every_key_of_the_spec_is_covered_by_the_checksum(tiny_run: Run, tmp_path: Path) -> None:
    for key, value in {"truncation": "drop_oldest", "date": "1 Jan 2000", "dtype": "bfloat16", "mode": "exact"}.items():
        folder = spoiled(tiny_run, tmp_path / key)
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["encoder"]["spec"][key] = value
        path.write_text(json.dumps(manifest))
        with pytest.raises(ModelError, match="does not match its checksum"):
            load_model(folder)


def test_weights_in_pickle_are_refused(tiny_run: Run, tmp_path: Path) -> None:
    folder = copied(tiny_run, tmp_path / "model")
    (folder / "backbone" / "model.safetensors").rename(folder / "backbone" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not stored as safetensors"):
        load_model(folder)


def test_one_task_has_one_mixture(tiny_run: Run, tmp_path: Path) -> None:
    folder = spoiled(tiny_run, tmp_path)
    signed(folder, lambda manifest: manifest["mixtures"].extend(manifest["mixtures"] * 4_999))
    begin = time.process_time()
    with pytest.raises(ModelError, match="several of the 5000 mixtures have the task"):
        load_model(folder)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("key", ["n_hidden", "hidden", "choices", "hidden_size"])
def test_a_gate_is_no_larger_than_its_tensors(key: str, tiny_run: Run, tmp_path: Path) -> None:
    folder = spoiled(tiny_run, tmp_path)
    signed(folder, lambda m: m["mixtures"][0]["spec"]["aggregator"]["gate"].update({key: 10_000_000}))
    begin = time.process_time()
    with pytest.raises(ModelError, match=f"{key} is 10,000,000|gate"):
        load_model(folder)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("value", [10**7, 10**12])
@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "head_dim"])
def test_sizes_are_held_against_the_tensors(key: str, value: int, checkpoint: Path) -> None:
    edited(checkpoint, "config.json", **{key: value})
    begin = time.process_time()
    with pytest.raises(FacetrmError, match=f"'{key}' is {value}"):
        load_model(checkpoint)
    assert time.process_time() - begin < 2


def test_many_small_sizes_are_added_up(checkpoint: Path) -> None:
    edited(checkpoint, "config.json", hidden_size=60_000, intermediate_size=60_000, vocab_size=60_000)
    with pytest.raises(FacetrmError, match=r"declares 2.*the weights hold"):
        load_model(checkpoint)


def spoil_header(length: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        with path.open("r+b") as handle:
            handle.write(struct.pack("<Q", length))
            handle.truncate(length + 8)

    return spoil


def pipe(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def link(name: str, target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def index(target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file({"x": torch.zeros(1)}, folder / "model-1.safetensors")
        path.unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"score.weight": target}}))

    return spoil


def deep(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("[" * 100_000 + "]" * 100_000) and None


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_header(50 << 20),
        spoil_header(1 << 40) if sys.platform == "darwin" else spoil_header(20 << 20),
        pipe("config.json"),
        pipe("model.safetensors"),
        pipe("tokenizer.json"),
        pipe("chat_template.jinja"),
        link("model.safetensors", "/dev/zero"),
        link("config.json", "/dev/stdin"),
        link("generation_config.json", "/etc/passwd"),
        index("/dev/zero"),
        index("../model.safetensors"),
        index("missing.safetensors"),
        index(""),
        deep("config.json"),
    ],
)
def test_only_regular_files_inside_are_opened(spoil: Callable[[Path], None], checkpoint: Path, tmp_path: Path) -> None:
    spoil(checkpoint)
    begin = time.process_time()
    with pytest.raises(FacetrmError) as caught:
        load_model(checkpoint)
    assert time.process_time() - begin < 2
    assert caught.value.place is not None
    assert caught.value.fix is not None
    assert len(str(caught.value)) < 3_000
