"""Inner layers: the vectors are Transformers' hidden states, one pass gives all, and no layer above them runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf

from adapter_samples import ROWS, gap, learned
from facetrm.backbone.encoder import Features
from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder, tiny_encoder
from tiny_decoders import MODELS, ids, made


def rows() -> list[Tokenized]:
    """Return four conversations, three of which share a prompt."""
    prompts = [ids(6, seed=1)] * 3 + [ids(9, seed=2)]
    return [Tokenized((*p, *ids(4 + n, seed=10 + n)), len(p) - 1, len(p), 4 + n) for n, p in enumerate(prompts)]


def states(trunk: tf.PreTrainedModel, row: Tokenized) -> tuple[torch.Tensor, ...]:
    """Return the hidden states [L, D] of one row that is read alone, as Transformers gives them."""
    with torch.no_grad():
        found = trunk(input_ids=torch.tensor([row.ids]), output_hidden_states=True, use_cache=False)
    return tuple(state[0] for state in found.hidden_states)


def engine(trunk: tf.PreTrainedModel, *, mode: str = "fast", packs: bool | None = None) -> DecoderEngine:
    inputs = frozenset({"input_ids", "attention_mask", "position_ids", "use_cache"})
    found = DecoderEngine(trunk, mode=mode, token_budget=64, pad=0, inputs=inputs)  # type: ignore[arg-type]
    found._packs = packs
    return found


def quiet(rows: int, tokens: int) -> None:
    """Ignore the progress."""


def calls_of(trunk: tf.PreTrainedModel) -> tuple[Counter[int], Callable[[], None]]:
    """Return counters of the tokens that each layer computes, and a function that sets them to zero."""
    tokens: Counter[int] = Counter()
    layers = trunk.h if hasattr(trunk, "h") else trunk.layers
    for n, layer in enumerate(layers, start=1):

        def count(_module: object, inputs: tuple[torch.Tensor, ...], _output: object, n: int = n) -> None:
            tokens[n] += inputs[0].shape[:-1].numel()

        layer.mlp.register_forward_hook(count)
    return tokens, tokens.clear


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_vectors_are_the_hidden_states_of_transformers(name: str, packs: bool) -> None:
    trunk, asked = made(name), rows()
    wanted = [states(trunk, row) for row in asked]
    for layers in ((1, 2, "last"), (1,), (2,)):
        prompt_ND, response_NAD = engine(trunk, packs=packs).read_layers(asked, quiet, layers=layers)
        assert response_NAD.shape == (4, len(layers), 32)
        for n, row in enumerate(asked):
            for a, layer in enumerate(layers):
                right = wanted[n][3 if layer == "last" else layer][-1]
                assert gap(response_NAD[n, a], right) < 2e-5 * max(1.0, float(right.abs().max())), (layer, n)
            assert gap(prompt_ND[n], wanted[n][-1][row.prompt_end]) < 5e-5


@pytest.mark.parametrize("name", ["llama", "gemma2, window of 6, capped", "gpt-neox", "gpt2, absolute positions"])
def test_exact_vectors_do_not_depend_on_other_rows_or_other_layers(name: str) -> None:
    trunk, asked = made(name), rows()
    exact = engine(trunk, mode="exact")
    prompt_ND, response_NAD = exact.read_layers(asked, quiet, layers=(1, 2, "last"))
    for n, row in enumerate(asked):
        wanted = states(trunk, row)
        assert torch.equal(response_NAD[n], torch.stack([wanted[1][-1], wanted[2][-1], wanted[3][-1]]))
        alone = exact.read_layers([row], quiet, layers=(2,))
        assert torch.equal(alone[1][0, 0], response_NAD[n, 1]), "the same bits without the layers above"
        assert torch.equal(alone[0][0], prompt_ND[n])
    assert torch.equal(prompt_ND[0], prompt_ND[2]), "answers to one prompt have one prompt vector"
    assert torch.equal(exact.read_layers(asked[::-1], quiet, layers=(1, 2, "last"))[1], response_NAD.flip(0))


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("name", ["llama", "gemma3, window of 6", "gpt2, absolute positions"])
def test_layers_above_the_highest_one_read_only_the_prompts(name: str, mode: str) -> None:
    trunk, asked = made(name), rows()
    reader = engine(trunk, mode=mode)
    tokens, reset = calls_of(trunk)
    for layers in ((1,), (1, 2, "last")):
        reader.read_layers(asked, quiet, layers=layers)  # the first call also checks the layers
    reset()
    reader.read_layers(asked, quiet, layers=(1,))
    prompts = 6 + 9
    if mode == "fast":
        assert tokens == {1: prompts + sum(len(row.ids) - row.prompt_end - 1 for row in asked), 2: prompts, 3: prompts}
    else:
        assert tokens == {1: prompts + sum(len(row.ids) for row in asked), 2: prompts, 3: prompts}
    reset()
    reader.read_layers(asked, quiet, layers=(1, 2, "last"))
    one_pass = dict(tokens)
    reset()
    reader.read_layers(asked, quiet, layers=("last",))
    extra = prompts if mode == "exact" else 0  # prompts are read alone there
    assert one_pass == {n: count + extra for n, count in tokens.items()}, "all layers cost one pass"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("layers") / "llama")


def opened(folder: Path, **settings: str) -> TransformerEncoder:
    return load_encoder(BackboneConfig(path=str(folder), device="cpu", **settings))  # type: ignore[arg-type]


def test_the_last_layer_by_its_number_or_name_is_what_an_encoder_gives_anyway(base: Path) -> None:
    encoder = opened(base)
    plain = encoder.encode(ROWS)
    for layers in (["last"], [2]):
        found = encoder.encode(ROWS, layers=layers)
        assert found.layers == ()
        assert torch.equal(found.response_NAD, plain.response_NAD)
    both = encoder.encode(ROWS, layers=["last", 1, 2, 1])
    assert both.layers == (1, "last")
    assert torch.equal(both.response(), plain.response())
    assert gap(both.response(1), plain.response()) > 0.1
    assert encoder.encode([], layers=[1, 2]).layers == (1, "last")


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_encoder_averages_a_layer_over_the_response(tmp_path: Path, mode: str) -> None:
    encoder = opened(tiny_encoder(tmp_path / "bert"), mode=mode)
    found = encoder.encode(ROWS, layers=[1, "last"])
    assert torch.equal(found.prompt_ND, encoder.encode(ROWS).prompt_ND)
    for n, messages in enumerate(ROWS):
        row = encoder.tokenize(messages)
        inputs = {"input_ids": torch.tensor([row.ids]), "token_type_ids": torch.tensor([row.types])}
        with torch.no_grad():
            wanted = encoder.model(**inputs, output_hidden_states=True).hidden_states
        span = slice(row.response_start, row.response_start + row.length)
        for layer, index in ((1, 1), ("last", 2)):
            assert gap(found.response(layer)[n], wanted[index][0, span].mean(dim=0)) < 2e-6
    tokens: Counter[int] = Counter()
    for number, layer in enumerate(encoder.model.encoder.layer, start=1):
        layer.attention.register_forward_hook(lambda *call, n=number: tokens.update({n: 1}))
    encoder.encode(ROWS, layers=[1])  # checks the layer
    tokens.clear()
    encoder.encode(ROWS, layers=[1])
    inner = Counter(tokens)
    tokens.clear()
    encoder.encode(ROWS, layers=["last"])
    assert inner[1] == tokens[1]
    assert inner[2] < tokens[2], "the upper layer reads only prompts"


def test_inner_layers_are_those_of_the_bare_trunk_whatever_adapters_it_holds(base: Path) -> None:
    encoder, bare = opened(base, mode="exact"), opened(base, mode="exact")
    learned(encoder.model, "style", seed=3)
    wanted, found = (one.encode(ROWS, layers=[1, "last"]) for one in (bare, encoder))
    assert torch.equal(found.response_NAD, wanted.response_NAD)
    with pytest.raises(BackboneError, match="adapters and layers are given"):
        encoder.encode(ROWS, adapters=["style"], layers=[1])


@pytest.mark.parametrize("layers", [[0], [3], [-1], ["first"], [True], [1.0], ["1"], [None], []], ids=str)
def test_a_layer_that_does_not_exist_is_named_with_the_range(base: Path, layers: list[object]) -> None:
    value = f"layer {layers[0]!r}, of a trunk of 2 layers" if layers else "no layer was given"
    with pytest.raises(BackboneError) as caught:
        opened(base).encode(ROWS, layers=layers)  # type: ignore[arg-type]
    assert value in str(caught.value)
    assert "give numbers from 1 to 1, or last" in str(caught.value)


def test_a_trunk_whose_layers_are_not_its_hidden_states_is_refused() -> None:
    trunk = made("llama")
    trunk.layers[0].register_forward_hook(lambda module, inputs, output: output)
    trunk.config.num_hidden_layers = 2  # as if the first module were no layer
    with pytest.raises(BackboneError, match="no list of layers"):
        engine(trunk).read_layers(rows(), quiet, layers=(1,))
    torch.manual_seed(0)
    shared = tf.AlbertModel(
        tf.AlbertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=3)
    )
    with pytest.raises(BackboneError, match="a AlbertModel has no list of layers"):
        engine(shared, mode="exact").read_layers(rows(), quiet, layers=(1,))


def test_features_say_which_layers_they_hold(base: Path) -> None:
    found = opened(base).encode(ROWS, layers=[1, "last"])
    assert torch.equal(found.only([1]).response_NAD[:, 0], found.response_NAD[:, 0])
    assert found.only(["last"]).layers == ()
    joined = Features.concat([found, found]).select(torch.tensor([0, 20]))
    assert joined.layers == (1, "last")
    with pytest.raises(BackboneError, match="parts with layers 1, last and layer last"):
        Features.concat([found, found.only(["last"])])
    with pytest.raises(BackboneError, match="hold layers 1, last, not layer 7"):
        found.response(7)
    with pytest.raises(BackboneError, match="2 response vectors for 1 layers"):
        Features(found.prompt_ND, found.response_NAD, found.length_N, found.tokens_N, found.truncated_N, layers=(1,))
    assert found.response_NAD.shape == (len(ROWS), 2, 32)
    assert chat("hi", "yes") in ROWS
