"""Compiled passes: the same features; what fails or differs is given up, and the log says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from fakes import chat, tiny_decoder, tiny_encoder

ROWS = [chat(f"question {n % 3}, put at some length", "well " * (n % 5) + f"answer {n}") for n in range(9)]
compile_with = torch.compile


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("compiled") / "llama")


def loaded(folder: Path, **settings: Any) -> TransformerEncoder:
    return load_encoder(BackboneConfig(path=str(folder), device="cpu", **settings))


def backend(monkeypatch: pytest.MonkeyPatch, of: Any) -> list[int]:
    """Let graphs be compiled by ``of``; return the list that every call of one is counted in."""
    torch._dynamo.reset()
    calls: list[int] = []

    def counted(graph: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        run = of(graph, examples)

        def called(*args: Any) -> Any:
            calls.append(len(args))
            return run(*args)

        return called

    monkeypatch.setattr(torch, "compile", partial(compile_with, backend=counted))
    return calls


def test_compiled_packs_give_the_same_features_and_are_not_compiled_anew(folder, monkeypatch, tmp_path, capfd):
    graphs: list[torch.fx.GraphModule] = []
    calls = backend(monkeypatch, lambda graph, examples: graphs.append(graph) or graph.forward)
    encoder, plain = loaded(folder, compile=True), loaded(folder)
    expected, found = plain.encode(ROWS), encoder.encode(ROWS)
    assert encoder._engine._packs
    assert (found.response_NAD - expected.response_NAD).abs().max() < 1e-5
    assert (encoder.encode(ROWS[::-1]).response_NAD.flip(0) - expected.response_NAD).abs().max() < 1e-5
    before = len(graphs), len(calls)
    for n in range(1, 9):
        encoder.encode(ROWS[n:] + ROWS[:1])
    assert len(graphs) == before[0], "packs of other shapes use the same code"
    assert len(calls) > before[1], "later passes are compiled too"
    assert "off" not in capfd.readouterr().err
    assert encoder.fingerprint == plain.fingerprint
    assert load_encoder(encoder.save_backbone(tmp_path / "copy")).fingerprint == plain.fingerprint


def test_compiled_batches_give_the_same_features(folder, monkeypatch, capfd):
    calls = backend(monkeypatch, lambda graph, examples: graph.forward)
    encoder = loaded(folder, compile=True)
    encoder.model.config.num_hidden_layers += 1
    encoder.encode(ROWS[:2])
    before = len(calls)
    assert (encoder.encode(ROWS).response_NAD - loaded(folder).encode(ROWS).response_NAD).abs().max() < 1e-5
    assert len(calls) > before
    said = capfd.readouterr().err
    assert "packing is off" in said
    assert "compile is off" not in said


def test_what_cannot_be_compiled_is_read_as_it_is(folder, monkeypatch, capfd):
    def broken(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        raise RuntimeError("no C++ compiler here")

    backend(monkeypatch, broken)
    encoder = loaded(folder, compile=True)
    assert torch.equal(encoder.encode(ROWS).response_NAD, loaded(folder).encode(ROWS).response_NAD)
    assert encoder._engine._compiled is None
    said = capfd.readouterr().err
    assert said.count("compile is off") == 1
    assert "no C++ compiler here" in said


def test_compiled_code_that_is_wrong_is_given_up(folder, monkeypatch, capfd):
    def wrong(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        return lambda *args: tuple(
            part * 1.5 if isinstance(part, torch.Tensor) and part.is_floating_point() else part
            for part in graph.forward(*args)
        )

    backend(monkeypatch, wrong)
    encoder = loaded(folder, compile=True)
    assert torch.equal(encoder.encode(ROWS).response_NAD, loaded(folder).encode(ROWS).response_NAD)
    assert encoder._engine._compiled is None
    assert encoder._engine._packs
    assert "compile is off" in (said := capfd.readouterr().err)
    assert "differs from the model by" in said


def test_exact_mode_and_encoders_do_not_compile(folder, tmp_path, monkeypatch, capfd):
    calls = backend(monkeypatch, lambda graph, examples: graph.forward)
    exact = loaded(folder, compile=True, mode="exact")
    assert torch.equal(exact.encode(ROWS).response_NAD, loaded(folder, mode="exact").encode(ROWS).response_NAD)
    bert = tiny_encoder(tmp_path / "bert")
    assert torch.equal(loaded(bert, compile=True).encode(ROWS).prompt_ND, loaded(bert).encode(ROWS).prompt_ND)
    assert calls == []
    assert capfd.readouterr().err.count("compile is off") == 2
