"""One task's mixture: names that fit everywhere, experts on one scale, capabilities with too few rows left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import facetrm.recipes.dmoerm.inner
from expert_samples import GROUPS, TEST, group, opened
from facetrm.backbone.lora.names import name_problem
from facetrm.core.errors import ConfigError, FitError
from facetrm.data.objectives import Objective
from facetrm.fit.experts.held_out import hold_out_prompts
from facetrm.model.aggregate import GatedSum
from facetrm.model.concat import ConcatMLP
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.inner import encode_pairs, experts_of, fit_inner, linear_head, pair_shares
from facetrm.recipes.dmoerm.names import check_experts, names_of_adapters, overall_objective
from facetrm.recipes.dmoerm.rows import Phases
from fakes import tiny_decoder


def objectives(*names: str) -> tuple[Objective, ...]:
    return tuple(Objective(name=name, low=0.0, high=1.0, kind="continuous") for name in names)


def test_adapters_have_names_of_their_own_that_peft_and_file_systems_take():
    tasks = {
        "聊天": objectives("聊天/同理心", "聊天/幽默"),
        "chat a": objectives("chat a/b", "chat a/b!"),
        "chat-a": objectives("chat-a/b"),
        "lora_A": objectives("lora_A/x", "lora_A/../up"),
        "default": objectives("default/keys"),
        "all": objectives("all/values"),
    }
    names = names_of_adapters(tasks, "all")
    wanted = {"all", *tasks, *(o.name for found in tasks.values() for o in found)}
    assert names.keys() == wanted
    assert len({name.casefold() for name in names.values()}) == len(names)
    for text, name in names.items():
        assert name_problem(name) is None, (text, name)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
    assert names_of_adapters(tasks, "all") == names
    plain = names_of_adapters({"chat": objectives("chat/empathy")}, "all")
    assert plain == {"all": "all", "chat": "chat", "chat/empathy": "chat--empathy"}


def test_names_that_differ_in_case_alone_are_told_apart():
    """On some file systems Chat and chat are one folder."""
    names = names_of_adapters({"chat": objectives("chat/Wit", "chat/wit")})
    assert len({name.casefold() for name in names.values()}) == 3


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


QUICK: dict[str, Any] = {
    "evaluate_every": 5,
    "folds": 0,
    "trainer": {"max_steps": 5, "learning_rate": 3e-3, "use_cpu": True, "per_device_train_batch_size": 8},
}


def config(**given: Any) -> DmoermConfig:
    value = {
        "tiny": {},
        "lora": {"rank": 2, "alpha": 4.0},
        "linear": {"folds": 2},
        "base": {"training": QUICK},
        "experts": {"training": QUICK, **given.pop("experts", {})},
        "aggregator": {
            "concat": {"steps": 20, "hidden": 8},
            "gate": {"steps": 20, "hidden": 4},
            **given.pop("aggregator", {}),
        },
    }
    return DmoermConfig.model_validate({**value, **given})


def phases(**capabilities: int) -> Phases:
    about = {f"chat/{name}": [group(n) for n in range(500, 500 + count)] for name, count in capabilities.items()}
    return Phases(GROUPS[:40], about, [group(n) for n in range(300, 340)])


def inner(trunk: Path, folder: Path, rows: Phases, names: tuple[str, ...], **given: Any):
    found = objectives(*names)
    encoder = opened(trunk)
    every = names_of_adapters({"chat": found})
    return encoder, fit_inner(encoder, "chat", found, rows, names=every, config=config(**given), folder=folder)


def test_a_capability_with_too_few_preferences_has_no_expert(base, tmp_path):
    names = ("chat/warmth", "chat/wit", "chat/none")
    encoder, fit = inner(base, tmp_path, phases(warmth=20, wit=19, none=0), names)
    assert fit.left_out == {"chat/wit": 19, "chat/none": 0}
    assert tuple(fit.mixture.names) == ("chat/warmth", "chat/overall")
    assert fit.mixture.adapters == ("chat--warmth", "chat")
    assert encoder.adapters == ("chat", "chat--warmth")
    assert fit.adapters == ("chat--warmth", "chat")
    assert isinstance(fit.mixture.aggregator, ConcatMLP)
    figures = fit.to_dict()
    assert figures["rows"] == {"base": 40, "chat/warmth": 20, "chat/wit": 19, "chat/none": 0, "mix": 40}
    assert figures["left_out"] == fit.left_out
    for name in ("chat", "chat--warmth"):
        assert (tmp_path / "adapters" / name / "adapter_model.safetensors").exists()
        assert not list((tmp_path / "training" / name).glob("checkpoint-*"))
    assert not (tmp_path / "adapters" / "chat--wit").exists()


def test_the_tasks_own_adapter_is_an_expert_where_it_is_asked_or_alone(base, tmp_path):
    rows = phases(warmth=30)
    _, without = inner(base, tmp_path / "a", rows, ("chat/warmth",), experts={"overall": False})
    assert tuple(without.mixture.names) == ("chat/warmth",)
    assert without.adapters == ("chat--warmth", "chat")
    _, alone = inner(base, tmp_path / "b", phases(), (), experts={"overall": False})
    assert tuple(alone.mixture.names) == ("chat/overall",)
    _, gated = inner(base, tmp_path / "c", rows, ("chat/warmth",), aggregator={"kind": "gated_sum"})
    assert isinstance(gated.mixture.aggregator, GatedSum)
    assert tuple(gated.mixture.names) == ("chat/warmth", "chat/overall")
    assert gated.mixture.beta > 0


def head_of(head, training):
    return head if isinstance(head, torch.Tensor) else head(training)


def test_experts_start_from_the_tasks_adapter_and_heads_from_rows_that_are_trained_on(base, tmp_path, monkeypatch):
    rows, usual, seen = phases(warmth=30), facetrm.recipes.dmoerm.inner.fit_adapter, []

    def fit_adapter(encoder, preferences, **given):
        adapters = None if given["start"] is None else [given["start"]]
        training = hold_out_prompts(preferences, given["config"].validation, seed=given["config"].seed)[0]
        pairs = encode_pairs(encoder, training, adapters=adapters)
        linear_D = linear_head(pairs, config().linear, weights=pair_shares(training))
        seen.append(
            (given["name"], given["start"], preferences, bool(torch.equal(linear_D, head_of(given["head"], training))))
        )
        return usual(encoder, preferences, **given)

    monkeypatch.setattr(facetrm.recipes.dmoerm.inner, "fit_adapter", fit_adapter)
    inner(base, tmp_path / "linear", rows, ("chat/warmth",))
    about = rows.capabilities["chat/warmth"]
    assert seen == [("chat", None, rows.base, True), ("chat--warmth", "chat", about, True)]
    seen.clear()
    _, fit = inner(base, tmp_path / "task", rows, ("chat/warmth",), experts={"head": "task", "training": QUICK})
    assert [one[3] for one in seen] == [True, False]
    assert torch.equal(fit.base.head_D, fit.experts["chat/overall"].head_D)
    seen.clear()
    inner(base, tmp_path / "new", rows, ("chat/warmth",), experts={"adapter": "new", "training": QUICK})
    assert seen == [("chat", None, rows.base, True), ("chat--warmth", None, about, True)]
    with pytest.raises(ValueError, match="the task's head reads the task's adapter: give 'linear' or 'random'"):
        config(experts={"adapter": "new", "head": "task"})


def test_a_new_adapter_starts_from_the_bare_trunk(base, tmp_path):
    still = {"trainer": {"max_steps": 1, "learning_rate": 1e-12, "per_device_train_batch_size": 8}, "gain": 0.0}
    task = {"training": {**QUICK, "gain": 0.0}}
    rows = [(*p.prompt, answer) for p in phases(warmth=30).capabilities["chat/warmth"] for answer in p.responses]
    for adapter in ("task", "new"):
        experts = {"adapter": adapter, "training": {**QUICK, **still}}
        encoder, _ = inner(base, tmp_path / adapter, phases(warmth=30), ("chat/warmth",), base=task, experts=experts)
        read = encoder.encode(rows, adapters=["chat--warmth", "chat"]).response_NAD
        trunk = encoder.encode(rows).response_NAD[:, 0]
        far = [float((read[:, 0] - other).abs().max()) for other in (read[:, 1], trunk)]
        assert (far[0] < 1e-6, far[1] < 1e-6) == ((True, False) if adapter == "task" else (False, True))


@pytest.mark.parametrize("name", ["base", "mix"])
def test_a_phase_of_one_prompt_is_refused_with_its_task(base, tmp_path, name):
    rows = phases(warmth=30)
    few = {"base": rows.base, "mix": rows.mix, "capabilities": rows.capabilities, name: rows.base[:1] * 3}
    with pytest.raises(FitError, match=rf"task 'chat': 3 preferences for phase '{name}'; give preferences of at least"):
        inner(base, tmp_path, Phases(**few), ("chat/warmth",))
    assert not (tmp_path / "training").exists()


def test_what_the_aggregator_cannot_hold_is_said_before_anything_is_trained(base, tmp_path):
    names = tuple(f"chat/n{k}" for k in range(9))
    with pytest.raises(ConfigError, match=r"task 'chat': 9 capabilities.*at most 8"):
        check_experts(config(experts={"overall": False}), {"chat": objectives(*names)})
    with pytest.raises(ConfigError, match=r"task 'chat': 8 capabilities and the task's own"):
        check_experts(config(), {"chat": objectives(*names[:8])})
    random = config(experts={"overall": False}, aggregator={"concat": {"hidden": 8, "start": "random"}})
    check_experts(random, {"chat": objectives(*names[:8])})
    check_experts(config(aggregator={"concat": {}}), {"chat": objectives(*names[:7])})
    with pytest.raises(ConfigError, match=r"aggregator\.concat\.hidden: 8 units cannot .* give 10 or more"):
        check_experts(config(), {"chat": objectives(*names[:4])})
    check_experts(config(aggregator={"kind": "gated_sum"}), {"chat": objectives(*names)})
    with pytest.raises(ConfigError, match=r"capability 'chat/overall' has the name of the task's own expert"):
        check_experts(config(), {"chat": objectives("chat/overall")})
    check_experts(config(experts={"overall": False}), {"chat": objectives("chat/overall", "chat/wit")})


def test_ratings_are_standardised_over_the_sample(base, tmp_path):
    encoder, fit = inner(base, tmp_path, phases(warmth=20), ("chat/warmth",))
    pairs = encode_pairs(encoder, TEST, adapters=fit.mixture.adapters)
    fits = [fit.experts[name] for name in fit.mixture.names]
    experts = experts_of((*objectives("chat/warmth"), overall_objective("chat")), fits, pairs.both())
    scores_NK = experts(pairs.both()).double()
    assert scores_NK.mean(dim=0) == pytest.approx([0.5, 0.5], abs=1e-4)
    assert scores_NK.std(dim=0, correction=0) == pytest.approx([0.2, 0.2], rel=0.02)
    raw_N = pairs.both().response_NAD[:, 1].double() @ fits[1].head_D.double()
    assert torch.corrcoef(torch.stack([raw_N, scores_NK[:, 1]]))[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert experts.adapters == ("chat--warmth", "chat")
    # The order of the answers is that of the head itself.
    assert torch.equal(scores_NK[:, 1].argsort(), raw_N.argsort())


def test_every_two_of_a_group_are_a_pair_and_a_group_weighs_one(base):
    encoder = opened(base)
    rows = [group(1, 2), group(2, 4), group(3, 3)]
    pairs = encode_pairs(encoder, rows)
    assert len(pairs) == 1 + 6 + 3
    assert pairs.groups == [rows[0].prompt_key] + 6 * [rows[1].prompt_key] + 3 * [rows[2].prompt_key]
    assert pair_shares(rows) == pytest.approx([1.0] + 6 * [1 / 6] + 3 * [1 / 3])
    best, last = rows[1].responses[0], rows[1].responses[-1]
    one, other = (encoder.encode([(*rows[1].prompt, r)]).response_NAD[0, 0] for r in (best, last))
    assert (pairs.chosen.response_NAD[3, 0] - one).abs().max() < 1e-5
    assert (pairs.rejected.response_NAD[3, 0] - other).abs().max() < 1e-5
