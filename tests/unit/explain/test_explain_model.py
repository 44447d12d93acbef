"""Whole models: edits change what is listened to, ablation measures effect, the overall view counts rightly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from explain_samples import LAMBDAS, NAMES, OBJECTIVES, VERBOSITY, talk
from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.core.statistics import win_credit
from facetrm.explain.ablation import ablate
from facetrm.explain.edits import Edit, edit, parse_edit
from facetrm.explain.overall import explain_overall
from facetrm.explain.prompts import prompt_groups
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder

D, K = 12, len(NAMES)
WORDS = "sum of two numbers red green blue safe code story answer long short right wrong maybe yes no"


def talks(n: int, *, seed: int = 0) -> list[tuple]:
    rng = np.random.default_rng(seed)
    words = WORDS.split()

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words, size=int(rng.integers(low, high))))

    return [talk(text(3, 8), text(2, 30)) for _ in range(n)]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    torch.manual_seed(7)
    experts = LinearExperts(OBJECTIVES, 0.3 * torch.randn(K, D), torch.full((K,), 0.5))
    debias = torch.eye(K)
    debias[VERBOSITY] -= torch.tensor(LAMBDAS)
    total = GatedSum(Gate(GateShape(D, K, hidden=8)), debias, reference_K=torch.full((K,), 0.4))
    return RewardModel(HashEncoder(D), {"all": Mixture(experts, total, beta=5.0)})


@pytest.fixture(scope="module")
def sides(model: RewardModel) -> tuple[Features, Features]:
    first, second = talks(60), talks(60, seed=1)
    pairs = [(a, (*a[:-1], b[-1])) for a, b in zip(first, second, strict=True)]
    return model.encoder.encode([a for a, _ in pairs]), model.encoder.encode([b for _, b in pairs])


def test_pinned_to_helpfulness_ranks_by_helpfulness_alone(model: RewardModel) -> None:
    rows = talks(40, seed=3)
    before = model.score(rows)
    alone = edit(model, pin={"helpsteer-helpfulness": 1.0}).score(rows)
    helpful = [score.scores["helpsteer-helpfulness"] for score in before]
    order = sorted(range(40), key=lambda n: -alone[n].reward)
    assert order == sorted(range(40), key=lambda n: -helpful[n])
    assert order != sorted(range(40), key=lambda n: -before[n].reward)
    assert all(score.reward == pytest.approx(h, abs=1e-5) for score, h in zip(alone, helpful, strict=True))


def test_drop_silences_weight_and_penalty_and_shares_out_the_rest(model: RewardModel) -> None:
    rows = talks(5)
    before = model.score(rows)
    without = edit(model, drop=["helpsteer-verbosity", "judge-errors"]).score(rows)
    for old, new in zip(before, without, strict=True):
        for name in ("helpsteer-verbosity", "judge-errors"):
            assert new.coefficients[name] == new.weights[name] == 0.0
        assert sum(new.weights.values()) == pytest.approx(1.0, abs=1e-6)
        kept = old.weights["beavertails-is_safe"] / old.weights["helpsteer-helpfulness"]
        assert new.weights["beavertails-is_safe"] / new.weights["helpsteer-helpfulness"] == pytest.approx(
            kept, rel=1e-4
        )


def test_scale_multiplies_the_coefficient(model: RewardModel) -> None:
    rows = talks(3)
    for old, new in zip(model.score(rows), edit(model, scale={"judge-errors": 3.0}).score(rows), strict=True):
        assert new.coefficients["judge-errors"] == pytest.approx(3 * old.coefficients["judge-errors"], rel=1e-5)


def test_the_manifest_records_every_edit_and_edits_add_up(model: RewardModel, tmp_path) -> None:
    first = edit(model, drop=["judge-errors"], scale={"helpsteer-correctness": 2.0})
    second = edit(first, scale={"helpsteer-correctness": 1.5}, pin={"judge-errors": 0.25})
    assert len({model.hash, first.hash, second.hash}) == 3
    second.save(tmp_path / "model")
    edits = json.loads((tmp_path / "model" / "manifest.json").read_text())["provenance"]["edits"]
    assert edits[0] == {"task": "all", "drop": ["judge-errors"], "scale": {"helpsteer-correctness": 2.0}, "pin": {}}
    assert edits[1]["pin"] == {"judge-errors": 0.25}
    held = second.mixture().aggregator.edit
    assert held.drop == ()
    assert dict(held.scale) == {1: 3.0}
    assert model.provenance.get("edits") is None
    loaded = RewardModel.load(tmp_path / "model", load_encoder=lambda spec: model.encoder)
    rows = talks(3)
    assert [s.reward for s in loaded.score(rows)] == [s.reward for s in second.score(rows)]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"drop": ["helpsteer-helpfulnes"]}, "did you mean 'helpsteer-helpfulness'"),
        ({"scale": {"nothing": 2.0}}, "objective 'nothing' is not in this model"),
        ({"scale": {"judge-errors": -1.0}}, "factor of 0 or more"),
        ({"pin": {"judge-errors": 1.5}}, r"weight in \[0, 1\]"),
        ({"pin": {"judge-errors": 0.7, "helpsteer-correctness": 0.7}}, "sum to 1.4"),
        ({"pin": {"helpsteer-verbosity": 1.0}}, "debiased against"),
        ({"drop": ["judge-errors"], "pin": {"judge-errors": 0.5}}, "both dropped and scaled or pinned"),
        ({"drop": list(NAMES)}, "no objective is left"),
    ],
)
def test_bad_edits_name_value_and_fix(model: RewardModel, wish: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        edit(model, **wish)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"scale": ["helpfulness"]}, "'helpfulness' is not name=number"),
        ({"pin": ["helpfulness=much"]}, "not name=number"),
        ({"pin": ["helpfulness=inf"]}, "not name=number"),
        ({"scale": ["=2"]}, "not name=number"),
        ({"scale": ["a=2", "a=3"]}, "'a' is given twice"),
        ({"drop": ["a", "a"]}, "'a' is given twice"),
        ({"drop": [" "]}, "an empty name"),
    ],
)
def test_bad_edit_options(wish: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_edit(**wish)


def test_edit_options_are_read() -> None:
    found = parse_edit(drop=["a"], scale=["b=2"], pin=["odd=name=0.5"])
    assert found == Edit(("a",), {"b": 2.0}, {"odd=name": 0.5})
    assert found
    assert not parse_edit()


def test_ablation_measures_what_the_edited_models_do(model: RewardModel, sides: tuple[Features, Features]) -> None:
    chosen, rejected = sides
    groups = [str(n // 2) for n in range(60)]
    table = ablate(model, chosen, rejected, groups=groups, samples=200)

    def margins(one: RewardModel) -> np.ndarray:
        return (one.output(chosen).reward_N - one.output(rejected).reward_N).double().numpy()

    whole = margins(model)
    assert table.accuracy.value == pytest.approx(win_credit(whole).mean())
    assert {line.objective for line in table.lines} == set(NAMES)
    assert [line.accuracy for line in table.lines] == sorted(line.accuracy for line in table.lines)
    assert table.needed == ()
    for line in table.lines:
        dropped = edit(model, drop=[line.objective])
        margin = margins(dropped)
        assert line.accuracy == pytest.approx(win_credit(margin).mean())
        assert line.accuracy_change.value == pytest.approx(line.accuracy - table.accuracy.value)
        assert line.accuracy_change.low <= line.accuracy_change.value <= line.accuracy_change.high
        assert line.turned == pytest.approx(np.mean(margin * whole < 0))
        change = (
            torch.cat([dropped.output(s).reward_N - model.output(s).reward_N for s in sides]).double().mean().item()
        )
        assert line.reward.value == pytest.approx(change, abs=1e-6)
    assert len({round(line.reward.value, 6) for line in table.lines}) == K
    json.dumps(table.to_dict(), allow_nan=False)


def test_ablation_of_an_edited_model_and_of_the_last_objective(
    model: RewardModel, sides: tuple[Features, Features]
) -> None:
    few = edit(model, drop=list(NAMES[1:]))
    table = ablate(few, *sides, samples=50)
    assert table.needed == ("helpsteer-helpfulness",)
    assert {line.accuracy_change.value for line in table.lines} == {0.0}
    with pytest.raises(ModelError, match="3 groups"):
        ablate(model, *sides, groups=["a", "b", "c"])


def test_overall_counts_who_is_listened_to(model: RewardModel, sides: tuple[Features, Features]) -> None:
    chosen, rejected = sides
    tasks = ["code" if n % 3 else "chat" for n in range(60)]
    found = explain_overall(model, chosen, rejected, tasks=tasks, sources=["one"] * 60)
    weights = model.output(chosen).weights_NK.double().numpy()
    assert list(found.everyone.weights.values()) == pytest.approx(weights.mean(axis=0).tolist())
    assert sum(found.everyone.weights.values()) == pytest.approx(1.0, abs=1e-5)
    code = weights[[task == "code" for task in tasks]].mean(axis=0)
    assert list(found.by_task["code"].weights.values()) == pytest.approx(code.tolist())
    assert found.by_task["code"].answers == 80
    assert found.by_source["one"] == found.everyone
    better, worse = model.output(chosen), model.output(rejected)
    both = torch.cat([better.contributions_NK, worse.contributions_NK]).double().numpy()
    lengths = torch.cat([chosen.length_N, rejected.length_N]).numpy()
    for k, name in enumerate(NAMES):
        assert found.everyone.contributions[name] == pytest.approx(np.abs(both[:, k]).mean())
        assert found.length[name] == pytest.approx(spearmanr(both[:, k], lengths).statistic)
        interval = found.length_interval[name]
        assert interval.low < interval.value == found.length[name] < interval.high
    gaps = np.abs((better.contributions_NK - worse.contributions_NK).double().numpy())
    alone = gaps.max(axis=1) > gaps.sum(axis=1) / 2
    assert found.decided.share.value == pytest.approx(alone.mean())
    assert 0 < alone.mean() < 1
    assert sum(found.decided.by.values()) == pytest.approx(found.decided.share.value)
    json.dumps(found.to_dict(), allow_nan=False)


def test_correlations_with_length_have_intervals_over_prompts(
    model: RewardModel, sides: tuple[Features, Features]
) -> None:
    """The same answers are worth less where few prompts gave them: a copy of a row tells nothing new."""
    chosen, _ = sides
    few = chosen.select(torch.arange(12))
    copied = few.select(torch.arange(12).repeat(5))
    once = explain_overall(model, few, groups=[f"p{n}" for n in range(12)])
    blind = explain_overall(model, copied, groups=[f"p{n}" for n in range(60)])
    seen = explain_overall(model, copied, groups=[f"p{n % 12}" for n in range(60)])
    width = {name: i.high - i.low for name, i in seen.length_interval.items()}
    assert (once.prompts, blind.prompts, seen.prompts) == (12, 60, 12)
    for name in NAMES:
        assert once.length_interval[name].high - once.length_interval[name].low == pytest.approx(width[name])
        assert width[name] > 1.4 * (blind.length_interval[name].high - blind.length_interval[name].low)
    assert seen.reward_length_interval.value == seen.reward_length


def test_overall_refuses_what_does_not_fit(model: RewardModel, sides: tuple[Features, Features]) -> None:
    with pytest.raises(ModelError, match="no answer to explain"):
        explain_overall(model, sides[0].select(torch.arange(0)))
    with pytest.raises(ModelError, match="2 tasks for 60 answers"):
        explain_overall(model, sides[0], tasks=["a", "b"])
    with pytest.raises(ModelError, match="3 rejected answers for 60"):
        explain_overall(model, sides[0], sides[1].select(torch.arange(3)))


def test_intervals_are_over_prompts_without_being_told_them(model: RewardModel) -> None:
    """Ten answers to each of six prompts are six clusters: the interval is wider than that of sixty prompts."""
    few = [(talks(6, seed=20)[n // 10][:-1], n) for n in range(60)]
    sides = []
    for seed in (21, 22):
        answers = [talk[-1] for talk in talks(60, seed=seed)]
        sides.append(model.encoder.encode([(*prompt, answers[n]) for prompt, n in few]))
    named = prompt_groups(sides[0])
    assert named == [named[n - n % 10] for n in range(60)]
    found = explain_overall(model, *sides)
    assert found.decided == explain_overall(model, *sides, groups=named).decided
    alone = explain_overall(model, *sides, groups=[str(n) for n in range(60)]).decided
    assert found.decided is not None
    assert alone is not None
    assert found.decided.share.value == alone.share.value
    assert (found.decided.share.low, found.decided.share.high) != (alone.share.low, alone.share.high)
    table = ablate(model, *sides, samples=50)
    assert table == ablate(model, *sides, groups=named, samples=50)
    noise = 1e-6 * torch.randn(sides[0].prompt_ND.shape, generator=torch.Generator().manual_seed(0))
    assert prompt_groups(replace(sides[0], prompt_ND=sides[0].prompt_ND + noise)) == prompt_groups(sides[0])
    assert len(set(prompt_groups(sides[0]))) == 6
