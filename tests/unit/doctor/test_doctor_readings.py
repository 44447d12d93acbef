"""The readings: what is fed to the trunk in each, that they are compared rightly, and who is blamed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, MixtralConfig, MixtralForSequenceClassification

from adapter_models import TALKS, two_tasks
from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.tiny import word_tokenizer
from facetrm.core.errors import BackboneError, ConfigError, ModelError
from facetrm.data.records import Conversation
from facetrm.data.world import World, vocabulary
from facetrm.doctor import probes
from facetrm.doctor.artefact import Artefact, read_artefact
from facetrm.doctor.diagnosis import diagnose
from facetrm.doctor.drift import answer_pairs
from facetrm.doctor.own_forward import OwnForward
from facetrm.doctor.probes import Probed, closest, probe_model, probe_own_forward, rendered
from facetrm.doctor.readings import Reader, mistakes, padded_on, rewards_of
from facetrm.doctor.verdicts import judge_readings, tabulate
from facetrm.hub.load import load_model
from planting import planted
from reward_models import QUESTIONS, routed

CPU = torch.device("cpu")
ROWS: list[Conversation] = [rating.messages for rating in World().ratings(10)]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(planted.write_classifier(tmp_path_factory.mktemp("readings") / "healthy"))


@pytest.fixture(scope="module")
def reader(healthy: Path) -> Reader:
    return Reader(load_model(healthy, device="cpu"))


@pytest.fixture(scope="module")
def native(healthy: Path) -> Reader:
    return Reader(load_model(planted.write_native(healthy.parent / "native", healthy), device="cpu"))


# --- passes


def test_experts_with_adapters_are_read_through_their_own_router() -> None:
    model = two_tasks()
    probed, rows = probe_model(model, TALKS)
    rewards = [score.reward for score in model.score(TALKS)]
    assert rows == []
    assert {*probed.readings} == {probes.REFERENCE, probes.AGAIN, probes.PACKED, probes.ROUNDED}
    for name in (probes.REFERENCE, probes.AGAIN, probes.PACKED):
        assert probed.rewards(name) == pytest.approx(rewards, abs=1e-6)


def test_a_batch_is_padded_on_the_side_that_is_asked_for() -> None:
    ids_NL, mask_NL, starts = padded_on([(5, 6), (7,)], pad=9, side="left")
    assert ids_NL.tolist() == [[5, 6], [9, 7]]
    assert mask_NL.tolist() == [[1, 1], [0, 1]]
    assert starts == [0, 1]
    ids_NL, mask_NL, starts = padded_on([(5, 6), (7,)], pad=9, side="right")
    assert (ids_NL.tolist(), mask_NL.tolist(), starts) == ([[5, 6], [7, 9]], [[1, 1], [1, 0]], [0, 0])


def test_rewards_are_those_of_the_model(native: Reader) -> None:
    expected = [score.reward for score in native.model.score(ROWS)]
    rows = native.tokenized(ROWS)
    for mode in ("fast", "exact"):
        assert native.engine(rows, mode=mode) == pytest.approx(expected, abs=1e-5)
    for side in ("alone", "right", "left"):
        assert native.plain(rows, side=side) == pytest.approx(expected, abs=1e-4)


def test_rewards_of_several_tasks_keep_their_rows() -> None:
    model = routed()
    features = model.encoder.encode(QUESTIONS)
    assert rewards_of(model, features) == pytest.approx([s.reward for s in model.score_features(features)], abs=1e-5)
    features.response_NAD[3] = math.nan
    found = rewards_of(model, features)
    assert [n for n, reward in enumerate(found) if math.isnan(reward)] == [3]


def test_bfloat16_moves_rewards_and_leaves_the_model_alone(reader: Reader) -> None:
    rows = reader.tokenized(ROWS)
    before = reader.engine(rows, mode="exact")
    rounded = reader.cast(torch.bfloat16).engine(rows, mode="exact")
    assert rounded != before
    assert rounded == pytest.approx(before, abs=0.2)
    assert reader.trunk.dtype == torch.float32
    assert reader.engine(rows, mode="exact") == before


def test_a_row_that_cannot_be_read_is_numbered(reader: Reader) -> None:
    long = (*ROWS[0][:-1], ROWS[0][-1].model_copy(update={"content": "a " * 600}))
    with pytest.raises(BackboneError, match="above the limit") as caught:
        reader.tokenized([ROWS[0], long])
    assert caught.value.row == 1


# --- mistakes


def test_mistakes_are_made_where_they_say(reader: Reader) -> None:
    (row,) = reader.tokenized(ROWS[:1])
    bos, end = reader.encoder.tokenizer.bos_token_id, reader.encoder.tokenizer.eos_token_id
    made = {name: change(row) for name, change in mistakes(reader).items()}
    assert made["double BOS"].ids == (bos, *row.ids)
    assert made["double BOS"].ids[made["double BOS"].prompt_end] == row.ids[row.prompt_end]
    assert made["no BOS"].ids == row.ids[1:]
    assert made["no BOS"].ids[made["no BOS"].prompt_end] == row.ids[row.prompt_end] == end
    assert made["no end of turn"].ids == row.ids[:-1]
    assert row.ids[-1] == end
    cut = made["last quarter cut"]
    assert cut.ids == row.ids[: len(row.ids) - len(row.ids) // 4]
    assert cut.length < row.length


def test_a_mistake_that_cannot_be_made_is_not_run(healthy: Path, tmp_path: Path) -> None:
    folder = planted.write_planted(planted.FAULTS["the template writes no end of turn"], tmp_path / "m", healthy)
    probed, _ = probe_model(load_model(folder, device="cpu"), ROWS)
    line = probed.readings["no end of turn"]
    # What is left to take away is the prompt's tokens, which stand before the response.
    assert (line.rewards, line.note) == (None, "the mistake changes none of these rows")


# --- the classifier's own class


def test_its_own_class_gives_the_first_logit(healthy: Path, reader: Reader) -> None:
    own = OwnForward(read_artefact(str(healthy)), device=CPU)
    ids = [row.ids for row in reader.tokenized(ROWS)]
    with quiet_transformers(), torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(healthy)
        expected = [float(model(torch.tensor([row])).logits[0, 0]) for row in ids]
    assert own.rewards(ids, side="alone") == pytest.approx(expected, abs=1e-5)
    assert own.rewards(ids, side="left") == pytest.approx(expected, abs=1e-4)


def test_what_would_be_drawn_at_random_is_not_read(healthy: Path, tmp_path: Path) -> None:
    folder = planted.write_planted(planted.FAULTS["the head is not in the weights"], tmp_path / "m", healthy)
    with pytest.raises(ModelError, match=r"initialises score\.weight at random"):
        OwnForward(read_artefact(str(folder)), device=CPU)


def test_without_a_padding_token_batches_are_not_run(healthy: Path, tmp_path: Path) -> None:
    folder = planted.write_planted(planted.FAULTS["no padding token"], tmp_path / "m", healthy)
    lines = {line.name: line for line in diagnose(str(folder), [ROWS], device="cpu").variants}
    assert (lines[probes.LEFT].verdict, lines[probes.LEFT].note) == ("not run", "no padding token")
    assert lines[probes.PLAIN].verdict == "agrees"


def test_a_classifier_that_our_engine_does_not_load_is_read_by_its_own_class(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(vocabulary(), max_tokens=512)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        **sizes,
        **planted._head_settings(tokenizer),
    )
    folder = planted._save(MixtralForSequenceClassification, config, tokenizer, tmp_path / "mixtral")
    artefact = read_artefact(str(folder))
    rows = rendered(artefact, ROWS)
    assert [row.ids[0] for row in rows] == [tokenizer.bos_token_id] * len(ROWS)
    assert [row.ids[-1] for row in rows] == [tokenizer.eos_token_id] * len(ROWS)
    probed = Probed()
    probe_own_forward(probed, artefact, rows, device=CPU)
    assert probed.rewards() == probed.rewards(probes.PLAIN)
    found = diagnose(str(folder), [ROWS], device="cpu")
    assert found.exit_code == 0
    assert {line.name: line.verdict for line in found.variants}[probes.LEFT] == "agrees"


def test_an_encoder_of_another_kind_is_read_through_encode() -> None:
    probed, rows = probe_model(routed(), QUESTIONS)
    assert rows == []
    assert list(probed.readings) == [probes.REFERENCE, probes.AGAIN, probes.PACKED, probes.ROUNDED]
    assert probed.rewards(probes.PACKED) == pytest.approx(probed.rewards(), abs=1e-5)


# --- verdicts

BASE = [0.0, 1.0, 2.0, 3.0]
PAIRS = answer_pairs([2, 2])


def probed(moves: Sequence[str] = (), **readings: Any) -> Probed:
    found = Probed(**{k: readings.pop(k) for k in ("full_precision", "evidence") if k in readings})
    found.add(probes.REFERENCE, "", lambda: BASE)
    for name, rewards in readings.items():
        found.add(name.replace("_", " "), probes.REFERENCE, lambda rewards=rewards: rewards, moves=name in moves)  # type: ignore[misc]
    return found


def blamed(readings: Probed, *, artefact: Artefact, threshold: float = 0.01) -> dict[str, str]:
    table = tabulate(readings, pairs_P2=PAIRS, threshold=threshold)
    return {f.code: f.culprit for f in judge_readings(readings, table, artefact=artefact, threshold=threshold)}


@pytest.fixture(scope="module")
def files(healthy: Path) -> Artefact:
    return read_artefact(str(healthy))


def shifted(by: float) -> list[float]:
    return [reward + by for reward in BASE]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (probes.AGAIN, "unstable"),
        (probes.PACKED, "packing-drift"),
        (probes.PLAIN, "transformers-drift"),
        (probes.RIGHT, "batch-drift"),
        (probes.LEFT, "padding-side"),
    ],
)
def test_a_reading_that_should_agree_and_does_not(name: str, code: str, files: Artefact) -> None:
    assert list(blamed(probed(**{name: shifted(0.1)}), artefact=files)) == [code]
    assert blamed(probed(**{name: shifted(0.001)}), artefact=files) == {}
    assert list(blamed(probed(**{name: shifted(0.001)}), artefact=files, threshold=1e-4)) == [code]
    assert blamed(probed(**{name: shifted(0.1)}), artefact=files, threshold=1.0) == {}


def test_bfloat16_may_move_ten_times_as_much_on_average(files: Artefact) -> None:
    assert blamed(probed(**{probes.BF16: shifted(0.1)}), artefact=files) == {}
    assert list(blamed(probed(**{probes.BF16: shifted(0.2)}), artefact=files)) == ["precision-drift"]
    coarse = probed(**{probes.PACKED: shifted(0.1)}, full_precision=False)
    assert blamed(coarse, artefact=files) == {}
    exact = probed(**{probes.LEFT: shifted(0.1)}, full_precision=False)  # plain Transformers reads in float32
    assert list(blamed(exact, artefact=files)) == ["padding-side"]


def test_rewards_that_are_no_numbers_or_all_equal(files: Artefact) -> None:
    for rewards, code in (([0.0, math.nan, 1.0], "scores-not-finite"), ([2.0, 2.0, 2.0], "scores-constant")):
        readings = Probed()
        readings.add(probes.REFERENCE, "", lambda rewards=rewards: rewards)  # type: ignore[misc]
        assert [f.code for f in judge_readings(readings, (), artefact=files, threshold=0.01)] == [code]


def test_crowded_rewards_are_a_fault_of_those_who_serve_heads_in_bfloat16(files: Artefact) -> None:
    crowded = Probed()
    crowded.add(probes.REFERENCE, "", lambda: [10.0, 10.01, 10.02, 10.03])
    assert [f.code for f in judge_readings(crowded, (), artefact=files, threshold=0.01)] == ["bf16-crowded"]
    ours = Artefact("m", Path(), "native")
    assert judge_readings(crowded, (), artefact=ours, threshold=0.01) == []


def test_the_mistake_that_explains_plain_transformers_is_named(files: Artefact) -> None:
    readings = {probes.PLAIN: shifted(0.5), "no BOS": shifted(0.5), "double BOS": shifted(0.4)}
    culprits = blamed(probed(moves=("no BOS", "double BOS"), **readings), artefact=files)
    assert culprits == {"transformers-drift": "it gives the same rewards as the reading 'no BOS'"}
    readings = {probes.PLAIN: shifted(0.5), "no end of turn": shifted(0.5)}
    culprits = blamed(probed(moves=("no end of turn",), **readings), artefact=files)
    assert culprits["transformers-drift"] == "it gives the same rewards as the reading 'no end of turn'"
    ends = probed(moves=("no end of turn",), evidence={probes.ENDS_WITH_PAD: True}, **readings)
    assert blamed(ends, artefact=files)["transformers-drift"].startswith("pad = end of turn")
    two = {probes.PLAIN: shifted(0.5), "no BOS": shifted(0.5), "double BOS": shifted(0.501)}
    culprits = blamed(probed(moves=("no BOS", "double BOS"), **two), artefact=files)
    assert culprits == {
        "transformers-drift": "it gives the same rewards as the readings 'no BOS', 'double BOS'; no test tells which"
    }


def test_the_closest_explanation_must_be_close() -> None:
    candidates = {"a": [1.0, 2.0], "b": [1.0, 2.5]}
    assert closest([1.0, 2.1], candidates, within=0.2) == "a"
    assert closest([1.0, 2.1], candidates, within=0.05) is None
    assert closest([1.0], {}, within=1.0) is None


# --- settings


def test_a_setting_that_is_none_is_refused(healthy: Path) -> None:
    with pytest.raises(ConfigError, match="truncashion"):
        diagnose(str(healthy), [ROWS], device="cpu", settings={"truncashion": "x"})


def test_one_of_ours_is_read_as_it_was_fitted(healthy: Path, tmp_path: Path) -> None:
    folder = planted.write_native(tmp_path / "native", healthy)
    with pytest.raises(ConfigError, match="read as it was fitted"):
        diagnose(str(folder), [ROWS], device="cpu", settings={"dtype": "bfloat16"})


def test_a_model_of_others_in_another_dtype(healthy: Path) -> None:
    found = diagnose(str(healthy), [ROWS], device="cpu", settings={"dtype": "bfloat16"})
    names = [line.name for line in found.variants]
    assert probes.FP32 in names
    assert probes.BF16 not in names


def test_a_row_is_not_to_blame_where_the_template_is(healthy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(healthy, tmp_path / "model"))
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(text.replace("message.content", "messages[-1].content"))
    found = diagnose(str(folder), [ROWS], device="cpu")
    assert "template-rewrites" in [f.code for f in found.findings]
    assert "no score was computed" in found.skipped[0]
    assert json.dumps(found.to_dict(), allow_nan=False)
