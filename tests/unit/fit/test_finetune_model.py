"""Losses against independent formulas in float64, and what gradients reach."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from facetrm.backbone.lora.adapters import LoraSettings, add_adapter
from facetrm.fit.finetune.model import TrainableHeads, TrunkWithHeads, without_dropout
from facetrm.fit.finetune.rows import Collator
from facetrm.fit.losses import masked_mse_loss
from fakes import tiny_decoder, tiny_encoder
from finetune_samples import OBJECTIVES, PREFERENCES, RATINGS, new_heads, opened, rows, settings

NAN = math.nan


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


def batch_of(encoder, config, count=6):
    mixed = rows(encoder, config)
    return Collator(pad=0, objectives=len(OBJECTIVES))([mixed[i] for i in range(count)])


def by_hand(scores, labels):
    total, counted = 0.0, 0
    for row, wanted in zip(scores.tolist(), labels.tolist(), strict=True):
        errors = [(s - y) ** 2 for s, y in zip(row, wanted, strict=True) if not math.isnan(y)]
        if errors:
            total += sum(errors) / len(errors)
            counted += 1
    return total / counted if counted else 0.0


def test_masked_mse_is_the_mean_over_rows_of_the_mean_over_their_labels():
    torch.manual_seed(3)
    scores, labels = torch.randn(40, 5), torch.rand(40, 5)
    labels[torch.rand(40, 5) < 0.6] = NAN
    labels[7] = NAN
    assert float(masked_mse_loss(scores, labels)) == pytest.approx(by_hand(scores.double(), labels.double()), rel=1e-6)


def test_a_row_without_labels_neither_counts_nor_gets_a_gradient():
    scores = torch.tensor([[1.0, 9.0], [5.0, 5.0], [0.0, 0.5]], requires_grad=True)
    labels = torch.tensor([[0.0, NAN], [NAN, NAN], [1.0, 1.0]])
    loss = masked_mse_loss(scores, labels)
    assert float(loss.detach()) == pytest.approx((1.0 + (1.0 + 0.25) / 2) / 2)
    loss.backward()
    assert scores.grad.tolist() == [[1.0, 0.0], [0.0, 0.0], [-0.5, -0.25]]
    nothing = masked_mse_loss(scores, torch.full((3, 2), NAN))
    assert float(nothing.detach()) == 0.0
    nothing.backward()
    assert bool(torch.isfinite(scores.grad).all())
    assert float(masked_mse_loss(torch.zeros(0, 2), torch.zeros(0, 2))) == 0.0


def test_the_loss_of_a_batch_is_the_stated_sum_on_the_vectors_that_scoring_reads(base):
    config = settings(regression=0.7, preference=0.4, ratings=2)
    encoder = opened(base)
    heads = new_heads(encoder, config, seed=4)
    model = TrunkWithHeads(encoder.model, heads, regression=0.7, preference=0.4).eval()
    batch = batch_of(encoder, config)
    mixed = rows(encoder, config)
    read = [mixed[i] for i in range(6)]
    ordered = [r for e in read for r in e.rated] + [p[0] for e in read for p in e.pairs]
    ordered += [p[1] for e in read for p in e.pairs]
    with torch.no_grad():
        found = model(**batch)
        hidden = [encoder.model(torch.tensor([r.ids.tolist()])).last_hidden_state[0, -1].double() for r in ordered]
    h = torch.stack(hidden)
    ratings = h[:12] @ heads.weight_KD.double().T + heads.bias_K.double()
    reward = h[12:] @ heads.preference_D.double()
    mse = by_hand(ratings, batch["labels_NK"].double())
    bt = sum(math.log1p(math.exp(-(float(c) - float(r)))) for c, r in zip(reward[:6], reward[6:], strict=True)) / 6
    assert float(found["regression"]) == pytest.approx(mse, rel=1e-5)
    assert float(found["preference"]) == pytest.approx(bt, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(0.7 * mse + 0.4 * bt, rel=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_training_and_scoring_read_the_same_vector(kind, base, tmp_path):
    encoder = opened(base if kind == "decoder" else tiny_encoder(tmp_path / "bert"))
    config = settings()
    batch = batch_of(encoder, config)
    model = TrunkWithHeads(
        encoder.model, new_heads(encoder, config), regression=1, preference=1, pooled=kind != "decoder"
    )
    names = ("input_ids", "attention_mask", "start_N", "stop_N", "token_type_ids")
    with torch.no_grad():
        vectors = model.features(**{name: batch[name] for name in names if name in batch})
    tokenised = {tuple(encoder.tokenize(m).ids): m for m in every_conversation()}
    rows_of = [
        tuple(row[mask == 1].tolist()) for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    wanted = encoder.encode([tokenised[ids] for ids in rows_of]).response_NAD[:, 0]
    assert (vectors - wanted).abs().max() < 1e-5
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def every_conversation():
    return [r.messages for r in RATINGS] + [c for p in PREFERENCES for c in (p.chosen, p.rejected)]


@pytest.mark.parametrize(("regression", "preference"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_gradients_reach_the_heads_that_are_trained_and_the_adapter_and_nothing_else(base, regression, preference):
    config = settings(regression=regression, preference=preference)
    encoder = opened(base)
    add_adapter(encoder.model, LoraSettings(rank=2), seed=0)
    heads = new_heads(encoder, config)
    model = TrunkWithHeads(encoder.model, heads, regression=regression, preference=preference)
    mixed = rows(encoder, config)
    model(**Collator(0, len(heads.bias_K))([mixed[i] for i in range(6)]))["loss"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    wanted = {"heads.weight_KD", "heads.bias_K"} if regression else set()
    wanted |= {"heads.preference_D"} if preference else set()
    assert {name for name in reached if name.startswith("heads.")} == wanted
    lora = {name for name in reached if name.startswith("trunk.")}
    assert lora
    assert all("lora_B" in name for name in lora)  # A's gradient starts when B has left zero
    assert reached <= model.trained()
    assert all("lora_" in name or name.startswith("heads.") for name in model.trained())


def test_heads_compute_in_float32_under_autocast():
    heads = TrainableHeads(64, 3, preference=True, seed=0)
    features = torch.randn(5, 64)
    plain = heads.rate(features), heads.prefer(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = heads.rate(features), heads.prefer(features.bfloat16())
        rounded = nn.functional.linear(features, heads.weight_KD, heads.bias_K)
    assert rounded.dtype == torch.bfloat16  # what a plain layer would have done
    assert [t.dtype for t in inside] == [torch.float32, torch.float32]
    assert torch.equal(inside[0], plain[0])
    assert torch.equal(inside[1], heads.prefer(features.bfloat16()))


def test_dropout_is_off_and_on_again_but_for_the_adapters(tmp_path):
    encoder = opened(tiny_encoder(tmp_path / "bert"))  # BERT drops out by default
    add_adapter(encoder.model, LoraSettings(rank=2, dropout=0.5), seed=0)
    trunk = encoder.model.train()
    batch = batch_of(encoder, settings())
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}

    def differs() -> bool:
        with torch.no_grad():
            first, second = (trunk(**given).last_hidden_state for _ in range(2))
        return not torch.equal(first, second)

    assert differs()
    before = {name: m.p for name, m in trunk.named_modules() if isinstance(m, nn.Dropout)}
    with without_dropout(trunk):
        assert not differs()  # B is zero, so the adapter's own dropout does not show
        assert {m.p for n, m in trunk.named_modules() if isinstance(m, nn.Dropout) and "lora_dropout" in n} == {0.5}
    assert before == {name: m.p for name, m in trunk.named_modules() if isinstance(m, nn.Dropout)}
    assert differs()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpointing_gives_the_same_gradients(base, method):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        encoder = opened(base)
        if method == "lora":
            add_adapter(encoder.model, LoraSettings(rank=2), seed=0)
            for name, p in encoder.model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
        model = TrunkWithHeads(encoder.model, new_heads(encoder, settings()), regression=1.0, preference=1.0).train()
        if checkpointing:
            model.activation_checkpointing_enable(
                {"use_reentrant": True}
            )  # the variant that needs inputs with gradients
        model(**batch_of(encoder, settings()))["loss"].backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, saved = gradients(False), gradients(True)
    assert plain.keys() == saved.keys()
    assert any("lora_A" in name if method == "lora" else "embed_tokens" in name for name in plain)
    for name, gradient in plain.items():
        assert (gradient - saved[name]).abs().max() <= 1e-6 * gradient.abs().max().clamp_min(1), name
