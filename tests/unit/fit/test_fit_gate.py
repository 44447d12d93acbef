from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import softplus
from torch.testing import assert_close

import facetrm.fit.loop as loop
from facetrm.core.errors import FitError
from facetrm.core.statistics import win_credit
from facetrm.fit.gate.fit import GateConfig, GateFit, fit_gate
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture
from preferences import TwoRules, four_experts, two_rules

QUICK = GateConfig(steps=300, hidden=16, dropout=0.0, rank=4, kl=0.0, refit=False, batch_size=256, patience=0)
EXPERTS = four_experts()
TRAIN, TEST = two_rules(800, seed=10), two_rules(800, seed=50)


def fit(pairs: TwoRules = TRAIN, config: GateConfig = QUICK, **keywords: object) -> GateFit:
    keywords = {"experts": EXPERTS, "debias_KK": torch.eye(4), "groups": pairs.groups, **keywords}
    return fit_gate(pairs.chosen, pairs.rejected, config=config, **keywords)  # type: ignore[arg-type]


def accuracy(found: GateFit, pairs: TwoRules = TEST, debias_KK: Tensor | None = None) -> float:
    mixture = Mixture(EXPERTS, GatedSum(found.gate, debias_KK), beta=found.beta)
    return float(win_credit(mixture.margins(pairs.chosen, pairs.rejected).numpy()).mean())


def equal(a: GateFit, b: GateFit) -> bool:
    left, right = a.gate.state_dict(), b.gate.state_dict()
    return a.to_dict() == b.to_dict() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def gate() -> GateFit:
    return fit()


def test_two_opposite_rules_need_the_prompt(gate: GateFit) -> None:
    unconditional = fit(config=QUICK.model_copy(update={"hidden": 0, "n_hidden": 0}))
    assert accuracy(gate) >= 0.97
    assert accuracy(unconditional) <= 0.85
    weights_NK = gate.gate(TEST.chosen.prompt_ND).detach()
    assert_close(weights_NK.sum(-1), torch.ones(len(TEST.groups)))
    for task in (0, 1):
        assert float(weights_NK[TEST.task_N == task, task].mean()) > 0.85


def test_it_beats_wrong_labels() -> None:
    noisy = fit(two_rules(1600, seed=80, flips=0.25), GateConfig(steps=200, rank=4))
    assert accuracy(noisy) >= 0.9
    assert 0.6 <= noisy.accuracy["before_refit.validation"] <= 0.8


def test_the_figures_of_a_refit_gate_are_its_own() -> None:
    """``train`` is of the gate returned, on all pairs; what was measured before the refit is called so."""
    pairs = two_rules(300, seed=80, flips=0.25)
    found = fit(pairs, GateConfig(steps=200, rank=4, hidden=16))
    names = {"train", "before_refit.train", "before_refit.validation"}
    assert set(found.accuracy) == set(found.loss) == names | {f"{name}.unconditional" for name in names}
    assert found.accuracy["train"] == accuracy(found, pairs)
    before = fit(pairs, GateConfig(steps=200, rank=4, hidden=16, refit=False))
    assert set(before.accuracy) == {"train", "train.unconditional", "validation", "validation.unconditional"}
    for name in ("train", "validation"):
        assert found.accuracy[f"before_refit.{name}"] == before.accuracy[name]
    assert found.accuracy["train"] != before.accuracy["train"], "another gate on other pairs"


def test_prompts_of_no_use_give_the_unconditional_weights_back() -> None:
    shuffled = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    pairs = TwoRules(
        *(
            type(side)(side.prompt_ND[shuffled], side.response_NAD, side.length_N, side.tokens_N, side.truncated_N)
            for side in (TRAIN.chosen, TRAIN.rejected)
        ),
        [f"{i}" for i in range(800)],
        TRAIN.task_N,
    )
    found = fit(pairs, GateConfig(steps=200))
    weights_NK = found.gate(TEST.chosen.prompt_ND).detach()
    assert float(weights_NK.std(dim=0).max()) < 0.1
    assert found.accuracy["before_refit.validation"] >= found.accuracy["before_refit.validation.unconditional"] - 0.03


def test_beta_is_the_factor_that_explains_unseen_labels_best() -> None:
    noisy = fit(two_rules(1600, seed=120, flips=0.25), GateConfig(steps=200, rank=4))
    other = two_rules(1600, seed=160, flips=0.25)
    mixture = Mixture(EXPERTS, GatedSum(noisy.gate), beta=noisy.beta)
    margin_N = mixture.margins(other.chosen, other.rejected)
    losses = [float(softplus(-factor * noisy.beta * margin_N).mean()) for factor in (0.4, 1.0, 2.5)]
    assert losses[1] == min(losses) < 0.66
    assert_close(mixture.margin_probability(margin_N), torch.sigmoid(noisy.beta * margin_N))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(gate: GateFit) -> None:
    torch.manual_seed(123)
    assert equal(gate, fit())
    assert not equal(gate, fit(config=QUICK.model_copy(update={"seed": 1})))


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QUICK.model_copy(update={"steps": 120, "dropout": 0.2, "refit": True})
    undisturbed, checkpoint = fit(config=config), tmp_path / "gate.safetensors"
    original = loop._step

    def dies(*arguments: object) -> float:
        if arguments[3] == 70:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(config=config, checkpoint=checkpoint)
    monkeypatch.undo()
    steps: list[object] = []

    def counts(*arguments: object) -> float:
        steps.append(arguments[3])
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_step", counts)
    assert equal(fit(config=config, checkpoint=checkpoint), undisturbed)
    assert steps[0] == 60


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    checkpoint, config = tmp_path / "gate.safetensors", QUICK.model_copy(update={"steps": 20})
    fit(config=config, checkpoint=checkpoint)
    with pytest.raises(FitError, match="other data or settings"):
        fit(TEST, config, checkpoint=checkpoint)
    checkpoint.write_bytes(b"broken")
    with pytest.raises(FitError, match="delete it to start over"):
        fit(config=config, checkpoint=checkpoint)


def test_the_best_checkpoint_is_kept(gate: GateFit) -> None:
    losses = {row["step"]: row["validation_loss"] for row in gate.history}
    assert losses[gate.best_step] == min(losses.values())
    assert len(losses) == 1 + 300 // QUICK.evaluate_every
    stopped = fit(config=QUICK.model_copy(update={"learning_rate": 0.3, "patience": 2, "steps": 4000}))
    assert stopped.history[-1]["step"] == stopped.best_step + 2 * QUICK.evaluate_every < 4000


def test_closed_and_debiased_objectives_get_no_weight() -> None:
    debias_KK = torch.eye(4)
    debias_KK[3] = torch.tensor([-0.2, -0.1, 0.0, 0.0])
    experts = four_experts()
    experts.objectives = tuple(
        o.model_copy(update={"direction": "unknown"}) if k == 2 else o for k, o in enumerate(experts.objectives)
    )
    found = fit(experts=experts, debias_KK=debias_KK)
    weights_NK = found.gate(TEST.chosen.prompt_ND)
    assert torch.equal(weights_NK[:, 2:], torch.zeros(800, 2))
    assert_close(weights_NK.sum(-1), torch.ones(800))


def test_fit_and_use_share_one_scoring_function(gate: GateFit) -> None:
    """The reported validation accuracy is that of the finished mixture on the same pairs."""
    debias_KK = torch.eye(4)
    debias_KK[3] = torch.tensor([-0.5, -0.5, -0.5, 0.0])
    found = fit(debias_KK=debias_KK)
    total = found.pairs["train"] + found.pairs["validation"]
    expected = sum(found.accuracy[part] * found.pairs[part] for part in ("train", "validation")) / total
    assert accuracy(found, TRAIN, debias_KK) == pytest.approx(expected, abs=1e-9)
    assert abs(accuracy(found, TRAIN) - expected) > 0.02


def test_a_unit_of_weight_is_a_spread(gate: GateFit) -> None:
    with torch.no_grad():
        gap_NK = EXPERTS(TRAIN.chosen) - EXPERTS(TRAIN.rejected)
    assert_close(gate.gate.unit_K, 1.0 / (gap_NK.square().mean(0) / 2).sqrt())
    assert torch.equal(fit(config=QUICK.model_copy(update={"unit_spread": False})).gate.unit_K, torch.ones(4))


def test_weights_of_zero_leave_pairs_out() -> None:
    wrong = two_rules(400, seed=200, flips=1.0)
    both = TwoRules(
        type(TRAIN.chosen).concat([TRAIN.chosen, wrong.chosen]),
        type(TRAIN.chosen).concat([TRAIN.rejected, wrong.rejected]),
        TRAIN.groups + wrong.groups,
        torch.cat([TRAIN.task_N, wrong.task_N]),
    )
    weights = np.r_[np.ones(800), np.zeros(400)]
    assert accuracy(fit(both, weights=weights)) >= 0.95 > accuracy(fit(both)) + 0.01


def test_reference_is_the_mean_answer(gate: GateFit) -> None:
    with torch.no_grad():
        both = torch.cat([EXPERTS(TRAIN.chosen), EXPERTS(TRAIN.rejected)])
    assert_close(gate.reference_K, both.mean(0))


def test_reference_weighs_an_answer_as_its_pair(gate: GateFit) -> None:
    """The 36 pairs of a ranking of nine pull the typical answer no further than one pair does."""
    weights = np.r_[np.full(400, 1 / 36), np.ones(400)]
    found = fit(weights=weights, config=QUICK.model_copy(update={"steps": 1}))
    with torch.no_grad():
        both = (EXPERTS(TRAIN.chosen) + EXPERTS(TRAIN.rejected)) / 2
    wanted = (torch.from_numpy(weights)[:, None] * both).sum(0) / weights.sum()
    assert_close(found.reference_K, wanted.float())
    assert not torch.allclose(found.reference_K, gate.reference_K)


def test_published_settings_run() -> None:
    config = GateConfig.published(steps=30, hidden=32, evaluate_every=10)
    found = fit(config=config)
    assert (config.n_hidden, config.temperature, config.beta) == (3, 10.0, 100.0)
    assert found.blend == 1.0
    assert [row["step"] for row in found.history] == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"groups": ["one"] * 800}, "one prompt cannot be split"),
        ({"groups": ["a", "b"]}, "2 prompt groups"),
        ({"weights": np.full(800, -1.0)}, "weights are not"),
        ({"weights": np.full(800, np.nan)}, "weights are not"),
    ],
)
def test_bad_pairs_are_named(change: dict[str, object], word: str) -> None:
    with pytest.raises(FitError, match=word):
        fit(**change)


def test_bad_features_are_named() -> None:
    chosen = TRAIN.chosen.select(torch.arange(800))
    chosen.prompt_ND[5, 0] = float("nan")
    with pytest.raises(FitError, match="pair 5 are not finite"):
        fit(TwoRules(chosen, TRAIN.rejected, TRAIN.groups, TRAIN.task_N))
    with pytest.raises(FitError, match="different prompt features"):
        fit(TwoRules(TRAIN.chosen, TEST.rejected, TRAIN.groups, TRAIN.task_N))


@pytest.mark.parametrize(
    "settings", [{"hidden": 0, "n_hidden": 2}, {"ridge": []}, {"blends": [-1.0]}, {"temperature": 0}, {"stepz": 3}]
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GateConfig(**settings)  # type: ignore[arg-type]


def test_a_head_that_hardly_moves_is_not_blown_up() -> None:
    weight_KD = EXPERTS.weight_KD.clone()
    weight_KD[3] *= 1e-5
    quiet = LinearExperts(EXPERTS.objectives, weight_KD, EXPERTS.bias_K)
    found = fit(experts=quiet, config=QUICK.model_copy(update={"unit_spread": True, "steps": 20}))
    assert float(found.gate.unit_K.max()) <= 100.0 + 1e-3
    assert float(found.gate.unit_K[3]) == pytest.approx(100.0)
