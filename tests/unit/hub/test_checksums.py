"""Exports: every flipped byte is noticed, and a self-contained one needs nothing outside of its folder."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import assert_refused, command
from facetrm import export_published, export_self_contained, load_model
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import BackboneError, ModelError
from facetrm.hub.checksums import CHECKSUMS, check_checksums
from facetrm.model.reward_model import RewardModel
from fakes import tiny_decoder
from gated_models import mixture
from published_samples import ROWS, write_checkpoint

LAYOUTS = {"published": export_published, "self-contained": export_self_contained}


def made(folder: Path, *, adapter: bool = False) -> RewardModel:
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(folder)), device="cpu", mode="exact"))
    if adapter:
        encoder.add_adapter("own", LoraSettings(rank=2), seed=0)
    return RewardModel(encoder, {"all": mixture()})


@pytest.fixture(scope="module", params=LAYOUTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return LAYOUTS[request.param](made(folder / "backbone"), folder / "out")


def test_one_flipped_byte_in_any_file_is_noticed(exported: Path) -> None:
    check_checksums(exported)
    files = [path for path in sorted(exported.rglob("*")) if path.is_file()]
    assert {"config.json", CHECKSUMS} < {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        for at in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            for bit in (1, 7, 32):
                path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
                with pytest.raises(ModelError) as caught:
                    load_model(exported, device="cpu")
                assert path.name in str(caught.value), (at, bit)
                assert caught.value.fix
        path.write_bytes(data)
    assert load_model(exported, device="cpu").score(ROWS)


def test_a_file_that_is_missing_or_added_is_named(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copied")
    (folder / "README.md").write_text("a card may be added", encoding="utf-8")
    check_checksums(folder)
    (folder / "added_tokens.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"'added_tokens\.json' was added"):
        load_model(folder)
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"'tokenizer\.json' is missing"):
        load_model(folder)
    for text in ("[]", "{}", '{"format": 1, "files": 3}', '{"format": 2, "files": {}}', '{"format": 1, "files": {}}'):
        (folder / CHECKSUMS).write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=CHECKSUMS.replace(".", r"\.")):
            load_model(folder)


def test_a_folder_without_checksums_is_read(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copied")
    (folder / CHECKSUMS).unlink()
    assert load_model(folder, device="cpu").score(ROWS) == load_model(exported, device="cpu").score(ROWS)
    assert load_model(write_checkpoint(tmp_path / "published")).score(ROWS[:1])


def test_a_model_that_is_saved_over_an_export_leaves_no_old_checksums(tmp_path: Path) -> None:
    model = made(tmp_path / "backbone")
    folder = export_self_contained(model, tmp_path / "out")
    model.save(folder, backbone="copy")
    assert not (folder / CHECKSUMS).exists()
    assert load_model(folder, device="cpu").hash == model.hash


LOADS = "import sys; from facetrm import load_model; print(load_model(sys.argv[1], device='cpu').hash)"


def test_a_self_contained_folder_needs_nothing_else(tmp_path: Path) -> None:
    model = made(tmp_path / "here" / "backbone", adapter=True)
    wanted = model.hash
    folder = export_self_contained(model, tmp_path / "here" / "out")
    moved = shutil.move(folder, tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    text = "".join(path.read_text(encoding="utf-8") for path in Path(moved).rglob("*.json"))
    assert str(tmp_path) not in text
    (tmp_path / "elsewhere").mkdir()
    for cwd, name in ((tmp_path / "elsewhere", "../there"), (tmp_path, "there")):
        done = subprocess.run(
            [sys.executable, "-c", LOADS, name], cwd=cwd, capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout.strip() == wanted
    with pytest.raises(ModelError, match="already exists"):
        export_self_contained(load_model(moved, device="cpu"), moved)


def test_the_verb_exports_both_ways(tmp_path: Path) -> None:
    model = made(tmp_path / "backbone")
    model.save(tmp_path / "model")
    for options in ([], ["--self-contained"]):
        out = tmp_path / f"out{len(options)}"
        said = command("export", tmp_path / "model", "--out", out, *options)
        assert said.code == 0, said
        assert said.out == f"model {model.hash[:12]} in {out}\n"
        rewards = [score.reward for score in load_model(out, device="cpu").score(ROWS)]
        assert rewards == pytest.approx([score.reward for score in model.score(ROWS)], abs=1e-5)
    assert_refused(command("export", tmp_path / "model", "--out", out), str(out), "already exists")


def test_a_saved_path_of_this_machine_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = made(tmp_path / "backbone")
    with caplog.at_level(logging.WARNING, logger="facetrm"):
        model.save(tmp_path / "whole", backbone="copy")
        assert not caplog.records
        model.save(tmp_path / "model")
    (record,) = caplog.records
    assert str(tmp_path / "backbone") in record.getMessage()
    assert "facetrm export" in record.getMessage()
    assert "--self-contained" in record.getMessage()
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["encoder"]["spec"]["path"] == str(tmp_path / "backbone"), "what the warning is about"
    shutil.rmtree(tmp_path / "backbone")
    with pytest.raises((ModelError, BackboneError)):
        load_model(tmp_path / "model")
