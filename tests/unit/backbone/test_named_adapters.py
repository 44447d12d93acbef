"""Several adapters on one trunk: each reads as PEFT's own switch would have it, and leaves no trace."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from adapter_samples import NAMES, ROWS, adapted, gap, learned, worst
from facetrm.backbone.encoder import AdapterEncoder
from facetrm.backbone.lora.adapters import (
    LoraSettings,
    adapter_tensors,
    merge_adapter,
    remove_adapter,
)
from facetrm.backbone.lora.switching import adapter_names, first_layer, switched, tuned_layers
from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder, tiny_encoder
from tiny_decoders import MODELS, ids, made

LINES = [
    Tokenized(p + a, len(p) - 1, len(p), len(a)) for p, a in ((ids(4 + n % 3, n % 3), ids(3 + n, n)) for n in range(7))
]


def by_peft(trunk: PreTrainedModel, names: list[str]) -> PreTrainedModel:
    """Return a copy of ``trunk`` that PEFT has switched to ``names``; none of them means no adapter at all."""
    model = copy.deepcopy(trunk)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(bool(names))
            module.set_adapter(names)
    return model


@torch.no_grad()
def alone(model: PreTrainedModel, row: Tokenized) -> torch.Tensor:
    """Return the last states of one row as plain Transformers reads it."""
    return model(input_ids=torch.tensor([row.ids]), use_cache=False).last_hidden_state[0]


def engine_of(model: PreTrainedModel, **settings: Any) -> DecoderEngine:
    inputs = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})
    return DecoderEngine(model, **{"mode": "fast", "token_budget": 60, "pad": 0, "inputs": inputs, **settings})


def counted(layer: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the tokens that ``layer`` computes."""
    calls: list[int] = []
    forward = layer.forward

    def told(hidden: torch.Tensor, *args: Any, **settings: Any) -> Any:
        calls.append(hidden.shape[0] * hidden.shape[1])
        return forward(hidden, *args, **settings)

    monkeypatch.setattr(layer, "forward", told)
    return calls


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("named") / "llama")


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("packs", [True, False])
def test_every_adapter_reads_as_peft_switches_it(name, packs, monkeypatch, capfd):
    model = made(name)
    for seed, adapter in enumerate(NAMES):
        learned(model, adapter, seed=seed, layers="last 1" if seed else "last 2")
    engine = engine_of(model)
    engine._packs = packs
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    below, above = (counted(layers[n], monkeypatch) for n in (0, 2))
    asked = ["style-2", "math"]
    prompt_ND, response_NAD = engine.read_adapted(LINES, lambda *_: None, adapters=asked)
    assert "is off" not in capfd.readouterr().err
    assert first_layer(model, asked) == 1
    monkeypatch.undo()
    for n, row in enumerate(LINES):
        assert gap(prompt_ND[n], alone(by_peft(model, []), row)[row.prompt_end]) < 1e-5
    for a, adapter in enumerate(asked):
        switched_by_peft = by_peft(model, [adapter])
        for n, row in enumerate(LINES):
            assert gap(response_NAD[n, a], alone(switched_by_peft, row)[-1]) < 1e-5
    assert gap(response_NAD[:, 0], response_NAD[:, 1]) > 0.01
    assert 1.5 * sum(below) < sum(above), "the layer below runs once, the one above for each adapter"


def test_the_layers_below_are_computed_once_and_prompts_above_without_their_answers(base, monkeypatch):
    encoder = adapted(base, layers="last 1")
    encoder.encode(ROWS, adapters=NAMES)
    rows = [encoder.tokenize(row) for row in ROWS]
    prompts = {row.ids[: row.prompt_end + 1] for row in rows}
    tokens = sum(map(len, prompts)) + sum({row.ids: len(row.ids) - row.prompt_end - 1 for row in rows}.values())
    below, above = (counted(layer, monkeypatch) for layer in encoder.model.layers)
    encoder.encode(ROWS, adapters=NAMES)
    assert sum(below) == tokens
    assert sum(above) == len(NAMES) * tokens + sum(map(len, prompts))
    below.clear()
    above.clear()
    encoder.prompts(ROWS)
    assert sum(below) == sum(above) == sum(map(len, prompts))


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_fast_and_exact_agree_in_order_and_prompts_are_those_of_the_bare_trunk(kind, budget, tmp_path):
    folder = tiny_decoder(tmp_path / "b") if kind == "decoder" else tiny_encoder(tmp_path / "b")
    fast, exact = adapted(folder, token_budget=budget), adapted(folder, mode="exact")
    asked = ["code", "math"]
    features, expected = fast.encode(ROWS, adapters=asked), exact.encode(ROWS, adapters=asked)
    assert features.response_NAD.shape == (len(ROWS), 2, fast.hidden_size)
    assert worst(features, expected) < 1e-5
    bare = load_encoder(BackboneConfig(path=str(folder), device="cpu", mode="exact")).encode(ROWS)
    assert gap(features.prompt_ND, bare.prompt_ND) < 1e-5
    assert gap(fast.prompts(ROWS), bare.prompt_ND) < 1e-5
    assert torch.equal(exact.prompts(ROWS), expected.prompt_ND)
    assert torch.equal(features.tokens_N, bare.tokens_N)
    assert torch.equal(exact.encode(ROWS).response_NAD, bare.response_NAD), "without names the trunk alone reads"
    assert gap(expected.response_NAD[:, :1], bare.response_NAD) > 0.01
    assert torch.equal(exact.encode(ROWS, adapters=["math"]).response_NAD[:, 0], expected.response_NAD[:, 1])


def test_exact_vectors_do_not_depend_on_what_else_is_asked(base):
    encoder = adapted(base, layers="last 1", mode="exact")
    whole = encoder.encode(ROWS, adapters=NAMES)
    some = encoder.encode([ROWS[5], ROWS[1]], adapters=["style-2"])
    assert torch.equal(some.response_NAD[:, 0], whole.response_NAD[[5, 1], 2])
    assert torch.equal(some.prompt_ND, whole.prompt_ND[[5, 1]])
    assert torch.equal(encoder.prompts([ROWS[7]]), whole.prompt_ND[[7]])


def test_no_rows_and_an_answer_that_changes_no_prompt(base):
    encoder = adapted(base)
    assert encoder.encode([], adapters=NAMES).response_NAD.shape == (0, 3, encoder.hidden_size)
    assert encoder.prompts([]).shape == (0, encoder.hidden_size)
    one, other = encoder.prompts([chat("why", "because")]), encoder.prompts([chat("why", "x " * 40)])
    assert torch.equal(one, other)
    assert isinstance(encoder, AdapterEncoder)


@pytest.mark.parametrize(
    ("asked", "said"), [(["maths"], "no adapter 'maths'; name some of code, math"), ([], "no adapter was given")]
)
def test_an_unknown_adapter_is_an_error(base, asked, said):
    for rows in (ROWS, []):
        with pytest.raises(BackboneError, match=said):
            adapted(base).encode(rows, adapters=asked)
    with pytest.raises(BackboneError, match=r"load some with backbone\.adapters"):
        load_encoder(BackboneConfig(path=str(base))).encode(ROWS, adapters=["math"])


def test_what_was_at_work_and_trained_is_so_again_after_an_error(base, monkeypatch):
    encoder = adapted(base, layers="last 1")
    encoder.encode(ROWS[:2], adapters=NAMES)
    layers = [layer for _, layer in tuned_layers(encoder.model)]
    for layer in layers:
        layer.set_adapter(["code"])
    training = {key: p.requires_grad for key, p in encoder.model.named_parameters()}
    forwards = [dict(vars(layer)) for layer in encoder.model.layers]
    norm = encoder.model.norm.forward
    calls: list[int] = []

    def breaks(hidden: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) in (1, 4):
            raise RuntimeError("broken")
        return norm(hidden)

    monkeypatch.setattr(encoder.model.norm, "forward", breaks)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"), switched(encoder.model, "math"):
            encoder.encode(ROWS, adapters=NAMES)
    monkeypatch.undo()
    assert all(layer.active_adapters == ["code"] and not layer.disable_adapters for layer in layers)
    assert training == {key: p.requires_grad for key, p in encoder.model.named_parameters()}
    assert [set(vars(layer)) for layer in encoder.model.layers] == [set(before) for before in forwards]
    assert worst(encoder.encode(ROWS, adapters=NAMES), adapted(base, layers="last 1").encode(ROWS, adapters=NAMES)) == 0


def test_switches_nest_and_outside_of_them_the_trunk_is_bare(base):
    encoder = adapted(base)
    row = encoder.tokenize(ROWS[0])
    read = {name: alone(by_peft(encoder.model, [name]), row) for name in NAMES}
    bare = alone(encoder.model, row)
    assert torch.equal(bare, alone(load_encoder(BackboneConfig(path=str(base))).model, row))
    with switched(encoder.model, "math"):
        with switched(encoder.model, "code"):
            assert torch.equal(alone(encoder.model, row), read["code"])
            with switched(encoder.model, None):
                assert torch.equal(alone(encoder.model, row), bare)
        assert torch.equal(alone(encoder.model, row), read["math"])
    assert torch.equal(alone(encoder.model, row), bare)


def test_what_is_switched_on_is_what_is_trained(base):
    encoder = adapted(base)
    row = torch.tensor([encoder.tokenize(ROWS[0]).ids])
    with switched(encoder.model, "code"):
        encoder.model(input_ids=row, use_cache=False).last_hidden_state.sum().backward()
    for name in NAMES:
        parts = [layer.lora_B[name].weight.grad for _, layer in tuned_layers(encoder.model)]
        assert all((part is not None and part.abs().sum() > 0) == (name == "code") for part in parts)
    assert all(p.grad is None for key, p in encoder.model.named_parameters() if "lora_" not in key)
    encoder.encode(ROWS[:2], adapters=NAMES)
    trained = {key for key, p in encoder.model.named_parameters() if p.requires_grad}
    assert trained == {key for key, _ in encoder.model.named_parameters() if "lora_" in key}


def test_layers_that_cannot_be_shared_are_not_and_the_log_says_so(base, monkeypatch, capfd):
    expected = adapted(base, layers="last 1").encode(ROWS, adapters=NAMES)
    encoder = adapted(base, layers="last 1")
    forward, inner = encoder.model.forward, encoder.model.layers[0].forward
    ran: list[bool] = []

    def first(*args: Any, **settings: Any) -> Any:
        ran.append(True)
        return inner(*args, **settings)

    def needs_the_first_layer(**inputs: Any) -> Any:
        ran.clear()
        output = forward(**inputs)
        output.last_hidden_state = output.last_hidden_state * (1.0 if ran else 1.1)
        return output

    monkeypatch.setattr(encoder.model.layers[0], "forward", first)
    monkeypatch.setattr(encoder.model, "forward", needs_the_first_layer)
    assert worst(encoder.encode(ROWS, adapters=NAMES), expected) < 1e-5
    assert encoder._engine._shares == {1: False}
    assert "sharing of layers is off" in capfd.readouterr().err


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("layers", ["last 1", None])
def test_out_of_memory_halves_the_pass_with_adapters_too(base, monkeypatch, capfd, packs, layers):
    expected = adapted(base, layers=layers).encode(ROWS, adapters=NAMES)
    encoder = adapted(base, layers=layers)
    encoder._engine._packs = packs
    upper, sizes = encoder.model.layers[1].forward, []

    def small(hidden: torch.Tensor, *args: Any, **settings: Any) -> Any:
        sizes.append(hidden.shape[0] * hidden.shape[1])
        if sizes[-1] > 120:
            raise torch.OutOfMemoryError("out of memory")
        return upper(hidden, *args, **settings)

    monkeypatch.setattr(encoder.model.layers[1], "forward", small)
    assert worst(encoder.encode(ROWS, adapters=NAMES), expected) < 1e-5
    assert max(sizes) > 120
    assert "out of memory" in capfd.readouterr().err


def test_the_fingerprint_names_trunk_and_adapters(base):
    bare = load_encoder(BackboneConfig(path=str(base)))
    encoder = load_encoder(BackboneConfig(path=str(base)))
    name = bare.fingerprint
    learned(encoder.model, "math", seed=0)
    assert encoder.trunk_fingerprint == name == bare.trunk_fingerprint
    assert encoder.fingerprint != name
    one, math = encoder.fingerprint, encoder.adapter_fingerprint("math")
    learned(encoder.model, "code", seed=0, layers="last 1")
    assert encoder.adapter_fingerprint("math") == math != encoder.adapter_fingerprint("code")
    assert encoder.fingerprint != one
    encoder.remove_adapter("code")
    assert encoder.fingerprint == one
    adapter_tensors(encoder.model, name="math")["layers.0.mlp.up_proj.lora_A.weight"].add_(1)
    assert encoder.adapter_fingerprint("math") != math
    encoder.remove_adapter("math")
    assert encoder.fingerprint == name
    assert encoder.model.state_dict().keys() == bare.model.state_dict().keys()
    with pytest.raises(BackboneError, match="no adapter 'math'"):
        encoder.adapter_fingerprint("math")


def test_a_named_adapter_stands_on_the_one_that_is_part_of_the_trunk(base, tmp_path):
    encoder = load_encoder(BackboneConfig(path=str(base)))
    learned(encoder.model, "default", seed=8, targets=("q_proj", "v_proj"))
    alone_name, before = encoder.fingerprint, encoder.encode(ROWS)
    learned(encoder.model, "math", seed=0, layers="last 1")
    assert encoder.trunk_fingerprint == alone_name
    assert worst(encoder.encode(ROWS), before) == 0
    features = encoder.encode(ROWS, adapters=["math"])
    both = by_peft(encoder.model, ["default", "math"])
    for n, row in enumerate(ROWS):
        assert gap(features.response_NAD[n, 0], alone(both, encoder.tokenize(row))[-1]) < 1e-5
    with pytest.raises(BackboneError, match="has the adapter 'math' besides 'default'"):
        merge_adapter(encoder.model)
    again = load_encoder(encoder.save_backbone(tmp_path / "saved"))
    assert again.fingerprint == encoder.fingerprint
    assert worst(again.encode(ROWS, adapters=["math"]), features) == 0
    remove_adapter(encoder.model, name="math")
    merge_adapter(encoder.model)
    assert gap(encoder.encode(ROWS).response_NAD, before.response_NAD) < 1e-5


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_adapters_are_saved_and_read_again_bit_equal(kind, tmp_path):
    folder = tiny_decoder(tmp_path / "b") if kind == "decoder" else tiny_encoder(tmp_path / "b")
    encoder = adapted(folder)
    features = encoder.encode(ROWS, adapters=NAMES)
    config = encoder.save_backbone(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved" / "adapters").iterdir()) == sorted(NAMES)
    again = load_encoder(config)
    assert again.adapters == tuple(sorted(NAMES))
    assert again.fingerprint == encoder.fingerprint
    assert worst(again.encode(ROWS, adapters=NAMES), features) == 0
    assert load_encoder(BackboneConfig.model_validate(again.spec())).fingerprint == encoder.fingerprint
    # One by one, by hand.
    other = load_encoder(BackboneConfig(path=str(folder)))
    for name in NAMES:
        encoder.save_adapter(name, tmp_path / name)
        other.add_adapter(name, tmp_path / name)
    assert other.fingerprint == encoder.fingerprint
    assert (
        encoder.spec()["adapters"]
        == {name: str((tmp_path / name).resolve()) for name in NAMES}
        == other.spec()["adapters"]
    )
    assert not any(p.requires_grad for p in adapter_tensors(other.model, name="math").values())
    other.remove_adapter("math")
    assert "math" not in other.spec()["adapters"]
    assert worst(other.encode(ROWS, adapters=["code"]), encoder.encode(ROWS, adapters=["code"])) == 0


def test_half_precision_keeps_adapters_in_float32(base):
    encoder = adapted(base, dtype="bfloat16", layers="last 1")
    assert {t.dtype for name in NAMES for t in adapter_tensors(encoder.model, name=name).values()} == {torch.float32}
    exact = adapted(base, dtype="bfloat16", layers="last 1", mode="exact")
    features = encoder.encode(ROWS, adapters=NAMES)
    assert worst(features, exact.encode(ROWS, adapters=NAMES)) < 0.1
    assert encoder._engine._shares == {1: True}


@pytest.mark.parametrize("name", ["default", "lora", "a", "lora_B", "x.y", "x/y", "", "keys", "train"])
def test_a_name_that_peft_would_mix_up_is_refused(base, name):
    with pytest.raises(ValueError, match="cannot be named"):
        BackboneConfig(path=str(base), adapters={name: "folder"})
    encoder = load_encoder(BackboneConfig(path=str(base)))
    with pytest.raises(BackboneError, match="cannot be named"):
        encoder.add_adapter(name, LoraSettings(rank=2))
    assert adapter_names(encoder.model) == ()


@pytest.mark.parametrize("name", ["weight", "q_proj", "layers", "0", "lora2", "A"])
def test_a_name_that_occurs_in_the_names_of_tensors_is_no_trouble(base, tmp_path, name):
    encoder = adapted(base)
    others = {other: encoder.adapter_fingerprint(other) for other in NAMES}
    learned(encoder.model, name, seed=9)
    assert len(adapter_tensors(encoder.model, name=name)) == len(adapter_tensors(encoder.model, name="math"))
    again = load_encoder(encoder.save_backbone(tmp_path / "saved"))
    assert again.fingerprint == encoder.fingerprint
    assert {other: again.adapter_fingerprint(other) for other in NAMES} == others
    assert worst(again.encode(ROWS, adapters=[name]), encoder.encode(ROWS, adapters=[name])) == 0


def test_an_adapter_that_does_not_fit_leaves_the_trunk_as_it_was(base, tmp_path):
    encoder = adapted(base)
    before = encoder.fingerprint
    encoder.save_adapter("math", tmp_path / "a")
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    for change in ({"r": 5}, {"target_modules": ["no_such"]}, {"target_modules": ["q_proj"]}):
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(BackboneError):
            encoder.add_adapter("other", tmp_path / "a")
        assert encoder.fingerprint == before
        assert encoder.adapters == tuple(sorted(NAMES))
