"""Causes that look alike: each is planted beside the other, and the doctor names the one that is there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.tiny import word_tokenizer
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Message
from facetrm.data.world import World, vocabulary
from facetrm.doctor import probes
from facetrm.doctor.artefact import Artefact, read_artefact
from facetrm.doctor.diagnosis import diagnose, renderer
from facetrm.doctor.drift import answer_pairs, drift, has_spread, spread
from facetrm.doctor.equal import check_answers
from facetrm.doctor.findings import Diagnosis, Finding
from facetrm.doctor.own_forward import OwnForward
from facetrm.doctor.probes import Probed, probe_model
from facetrm.doctor.readings import Reader, companions
from facetrm.doctor.verdicts import judge_readings, tabulate
from facetrm.doctor.words import knower
from facetrm.hub.load import load_model
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from planting import planted

GROUPS = [[row.chosen, row.rejected] for row in World().preferences(6, part="test")]
ROWS: list[Conversation] = [answer for group in GROUPS for answer in group]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(planted.write_classifier(tmp_path_factory.mktemp("causes") / "healthy"))


@pytest.fixture
def reader(healthy: Path) -> Reader:
    return Reader(load_model(healthy, device="cpu"))


def native(folder: Path, backbone: Path, *, dtype: Any = "bfloat16") -> Path:
    """A model of ours with a trunk in ``dtype``."""
    encoder = load_encoder(BackboneConfig(path=str(backbone), device="cpu", dtype=dtype, kind="decoder"))
    random = torch.Generator().manual_seed(0)
    experts = LinearExperts(
        [Objective(name="helpful", low=0, high=4)], torch.randn(1, planted.SIZE, generator=random), torch.zeros(1)
    )
    gate = Gate(GateShape(planted.SIZE, 1, hidden=0, n_hidden=0))
    RewardModel(encoder, {"all": Mixture(experts, GatedSum(gate))}).save(folder, backbone="copy")
    return folder


def planted_in(name: str, folder: Path, healthy: Path) -> Path:
    return Path(planted.write_planted(planted.FAULTS[name], folder, healthy))


def by_code(found: Diagnosis) -> dict[str, Finding]:
    return {finding.code: finding for finding in found.findings}


# --- precision, or other weights


def test_a_trunk_in_bfloat16_is_not_taken_for_other_weights(healthy: Path, tmp_path: Path) -> None:
    crowded = planted_in("rewards crowded far from zero", tmp_path / "trunk", healthy)
    planted._weights(crowded, lambda t: t["model.embed_tokens.weight"][2].mul_(40.0))
    found = diagnose(str(native(tmp_path / "m", crowded)), GROUPS, device="cpu")
    assert set(by_code(found)) == {"precision-drift"}
    lines = {line.name: line for line in found.variants}
    assert lines[probes.PLAIN].against == probes.FP32
    assert lines[probes.PLAIN].verdict == "agrees"


def test_other_weights_are_found_beside_a_trunk_in_bfloat16(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = OwnForward.rewards
    monkeypatch.setattr(OwnForward, "rewards", lambda *a, **k: [r * 1.5 + 1.0 for r in read(*a, **k)])
    found = by_code(diagnose(str(native(tmp_path / "m", healthy)), GROUPS, device="cpu"))
    assert "precision-drift" not in found
    assert "not rounding" in found["transformers-drift"].culprit


# --- the padding id at the end of a conversation


def test_closing_with_the_padding_id_is_no_fault_of_a_model_that_reads_by_its_mask(
    healthy: Path, tmp_path: Path
) -> None:
    backbone = planted_in("the end of turn is the padding token", tmp_path / "trunk", healthy)
    for dtype in ("float32", "bfloat16"):
        found = diagnose(str(native(tmp_path / dtype, backbone, dtype=dtype)), GROUPS, device="cpu")
        assert found.findings == ()


def test_closing_with_the_padding_id_is_proven_where_the_head_looks_for_it(healthy: Path, tmp_path: Path) -> None:
    folder = planted_in("the end of turn is the padding token", tmp_path / "m", healthy)
    found = by_code(diagnose(str(folder), GROUPS, device="cpu"))
    assert found["transformers-drift"].culprit.startswith("pad = end of turn")


def test_a_class_that_pools_the_first_token_is_not_blamed_for_its_padding(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(vocabulary(), max_tokens=512)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        **{**planted._head_settings(tokenizer), "pad_token_id": tokenizer.eos_token_id},
    )
    folder = planted._save(DebertaV2ForSequenceClassification, config, tokenizer, tmp_path / "deberta")
    artefact = read_artefact(str(folder))
    assert artefact.expected is not None
    assert not artefact.expected.reads_last
    found = by_code(diagnose(str(folder), GROUPS, device="cpu"))
    assert not {"pad-is-eos", "pad-mismatch", "pad-missing"} & found.keys()
    side = found.get("padding-side")
    assert side is None or (side.severity == "note" and "pools the first token" in side.culprit)


# --- padding, or the rows beside


def judged(reader: Reader, files: Artefact) -> dict[str, Finding]:
    probed, _ = probe_model(reader.model, ROWS)
    table = tabulate(probed, pairs_P2=answer_pairs([2] * len(GROUPS)), threshold=0.01)
    return {f.code: f for f in judge_readings(probed, table, artefact=files, threshold=0.01)}


def test_rows_that_look_at_each_other_are_not_taken_for_padding(reader: Reader, healthy: Path) -> None:
    def mix(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden + (hidden.mean(dim=0, keepdim=True) if len(hidden) > 1 else 0.0)
        return output

    with_hook = reader.trunk.register_forward_hook(mix)
    found = judged(reader, read_artefact(str(healthy)))
    with_hook.remove()
    assert "without padding" in found["batch-drift"].problem
    assert "padding-drift" not in found


def test_a_mask_that_is_not_followed_is_padding_and_one_fault(reader: Reader, healthy: Path) -> None:
    def unmask(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if len(kwargs["input_ids"]) > 1:
            kwargs = {k: v for k, v in kwargs.items() if k != "attention_mask"}
        return args, kwargs

    with_hook = reader.trunk.register_forward_pre_hook(unmask, with_kwargs=True)
    found = judged(reader, read_artefact(str(healthy)))
    with_hook.remove()
    assert "batch-drift" not in found
    assert found["padding-side"].culprit.startswith("the attention mask is ignored")


def test_absolute_positions_are_told_from_a_mask_by_a_second_padding_id(tmp_path: Path) -> None:
    folder = planted.write_absolute(tmp_path / "gpt2")
    side = by_code(diagnose(str(folder), GROUPS, device="cpu"))["padding-side"]
    assert side.culprit.startswith("absolute positions")
    assert "the mask is respected" in side.culprit


def test_another_padding_id_is_named_after_the_right_one_was_tried(healthy: Path, tmp_path: Path) -> None:
    folder = planted_in("the configuration names another padding token", tmp_path / "m", healthy)
    found = by_code(diagnose(str(folder), GROUPS, device="cpu"))
    assert found["padding-drift"].culprit.endswith("padded with 3, rewards agree")
    assert "batch-drift" not in found


def test_companions_have_the_length_the_prompt_and_the_end_of_their_row() -> None:
    rows = [Tokenized((1, 2, 3, 4, 9), 1, 2, 3), Tokenized((1, 5, 9), 0, 1, 2)]
    assert companions(rows) == [(1, 2, 5, 3, 9), (1, 3, 9)]


# --- random numbers, or kernels


@pytest.mark.parametrize("random", [True, False])
def test_random_numbers_are_told_from_kernels_by_a_seed(random: bool, reader: Reader, healthy: Path) -> None:
    calls = itertools.count()

    def shake(_module: Any, _inputs: Any, output: Any) -> Any:
        noise = torch.randn(1) if random else torch.tensor(float(next(calls) % 7))
        output.last_hidden_state = output.last_hidden_state + noise
        return output

    with_hook = reader.trunk.register_forward_hook(shake)
    found = judged(reader, read_artefact(str(healthy)))
    with_hook.remove()
    said = "draws random numbers" if random else "nondeterministic kernels"
    assert said in found["unstable"].culprit


def test_what_is_unstable_explains_what_moves_no_further(healthy: Path) -> None:
    readings = Probed(evidence={probes.SEED_DECIDES: True})
    readings.add(probes.REFERENCE, "", lambda: [0.0, 1.0, 2.0, 3.0])
    for name, by in ((probes.AGAIN, 0.5), (probes.PACKED, 0.6), (probes.PLAIN, 5.0)):
        readings.add(name, probes.REFERENCE, lambda by=by: [0.0, 1.0 + by, 2.0, 3.0])  # type: ignore[misc]
    table = tabulate(readings, pairs_P2=answer_pairs([2, 2]), threshold=0.01)
    found = judge_readings(readings, table, artefact=read_artefact(str(healthy)), threshold=0.01)
    assert [f.code for f in found] == ["unstable", "transformers-drift"]


def test_packs_that_agree_in_float32_only_round(healthy: Path) -> None:
    for agree, said, severity in ((True, "rounding", "warning"), (False, "attends across", "error")):
        readings = Probed(full_precision=False, evidence={probes.PACKS_AGREE_IN_FLOAT32: agree})
        readings.add(probes.REFERENCE, "", lambda: [0.0, 1.0, 2.0, 3.0])
        readings.add(probes.PACKED, probes.REFERENCE, lambda: [0.5, 1.5, 2.5, 3.5])
        table = tabulate(readings, pairs_P2=answer_pairs([2, 2]), threshold=0.01)
        (found,) = judge_readings(readings, table, artefact=read_artefact(str(healthy)), threshold=0.01)
        assert said in found.culprit
        assert found.severity == severity


# --- the template, the tokens, the limit, or the head


def talk(answer: str) -> Conversation:
    return (Message(role="user", content="a"), Message(role="assistant", content=answer))


def equal(reader: Reader, one: str, other: str, rewards: list[float] | None = None, **more: Any) -> list[Finding]:
    group = [talk(one), talk(other)]
    rows = more.pop("rows", None) or reader.tokenized(group)
    return check_answers([group], rows, rewards=rewards or [1.0, 1.0], **more)


def test_unknown_words_are_told_from_a_template_that_drops_them(reader: Reader) -> None:
    knows = knower(reader.encoder.tokenizer)
    render = renderer(reader.encoder)
    (found,) = equal(reader, "zorgle", "blorptix", render=render, knows=knows)
    assert "unknown to the tokenizer" in found.culprit
    rows = [Tokenized((1, 2, 3), 0, 1, 2)] * 2
    (found,) = equal(reader, "zorgle", "blorptix", rows=rows, render=lambda _: "always this", knows=knows)
    assert "renders both the same" in found.culprit
    one, other = vocabulary()[10:12]
    (found,) = equal(reader, one, other, rows=rows, render=lambda m: m[-1].content, knows=knows)
    assert "maps both to the same tokens" in found.culprit
    cut = [Tokenized((1, 2, 3), 0, 1, 2, truncated=True)] * 2
    (found,) = equal(reader, "zorgle", "blorptix", rows=cut, render=lambda _: "always this")
    assert "conversations are truncated" in found.culprit


def test_answers_that_are_one_text_may_get_one_reward(reader: Reader) -> None:
    assert equal(reader, "a  b", "a b ") == []


def test_answers_that_are_read_and_do_not_count(reader: Reader) -> None:
    words = vocabulary()[10:12]
    assert equal(reader, *words, rewards=[1.0, 2.0]) == []
    (found,) = equal(reader, *words, rewards=[1.0, 1.0 + 1e-7])
    assert "does not depend on them" in found.culprit


# --- no spread


def test_rounding_is_no_spread() -> None:
    pair = [1.6517006158828735, 1.6517010927200317]
    assert not has_spread(pair)
    assert spread(pair) == pytest.approx(1.65, abs=0.01)
    moved = drift([pair[0], pair[0]], pair, pairs_P2=answer_pairs([2]))
    assert moved.largest_spreads < 1e-6
    assert (moved.flips, moved.ties, moved.spreads) == (0, 0, False)
    assert has_spread([1.6517, 1.6518])
    assert spread([1.0, 3.0]) == 1.0


def test_rewards_without_a_spread_are_said_to_have_none(healthy: Path) -> None:
    readings = Probed()
    readings.add(probes.REFERENCE, "", lambda: [1.6517006158828735, 1.6517010927200317])
    readings.add(probes.PACKED, probes.REFERENCE, lambda: [1.6517010927200317, 1.6517006158828735])
    table = tabulate(readings, pairs_P2=answer_pairs([2]), threshold=0.01)
    assert table[0].verdict == "agrees"
    (found,) = judge_readings(readings, table, artefact=read_artefact(str(healthy)), threshold=0.01)
    assert found.code == "scores-constant"
    assert "all rewards are equal" in found.problem
