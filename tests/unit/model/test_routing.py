"""A router over mixtures with adapters: prompts first, each row with its task's adapters, a fall-back where unsure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from adapter_models import MATHS, NAMED, TALKS, encoder, experts, gated, network, one_task, router, two_tasks, weighed
from facetrm.backbone.encoder import AdapterEncoder, Encoder, Features
from facetrm.backbone.words import BagOfWords
from facetrm.core.config import Section
from facetrm.core.errors import BackboneError, ModelError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.model.store import model_hash
from fakes import HashEncoder, NamedHashEncoder
from reward_models import QUESTIONS, routed


def hash_encoder(spec: dict[str, object]) -> Encoder:
    assert isinstance(spec["named"], list)
    return NamedHashEncoder(int(str(spec["hidden_size"])), named=spec["named"])


def probabilities(model: RewardModel) -> torch.Tensor:
    assert model.router is not None
    with torch.no_grad():
        return model.router(HashEncoder(16).prompts(TALKS))


@pytest.mark.parametrize("make", [one_task, weighed, two_tasks])
def test_scores_are_whole_and_in_order(make: Callable[[], RewardModel]) -> None:
    model = make()
    scores = model.score(TALKS)
    assert len({score.reward for score in scores}) == 12
    for messages, score in zip(TALKS, scores, strict=True):
        assert score.reward == pytest.approx(score.base + sum(score.contributions.values()), abs=1e-5)
        assert score.length == len(messages[-1].content.split())
        names = model.mixture(score.task).names
        assert tuple(score.contributions) == tuple(score.scores) == tuple(score.ratings) == names
        assert model.score([messages]) == [score]
    assert model.score(TALKS[::-1]) == scores[::-1]
    assert model.score([]) == []


def test_a_network_has_neither_weights_nor_coefficients_and_one_base_a_task() -> None:
    scores = two_tasks().score(TALKS)
    assert all(score.weights == score.coefficients == {} for score in scores)
    for task in ("chat", "maths"):
        assert len({score.base for score in scores if score.task == task}) == 1
    assert all(score.weights and score.coefficients for score in weighed().score(TALKS))


def test_each_row_is_read_with_the_adapters_of_its_task_alone() -> None:
    model = two_tasks()
    reader = model.encoder
    assert isinstance(reader, HashEncoder)
    scores = model.score(TALKS)
    tasks = [score.task for score in scores]
    assert {*tasks} == {"chat", "maths"}
    assert reader.asked == [model.mixture("chat").adapters, model.mixture("maths").adapters]
    assert reader.rows == len(TALKS)
    assert tasks == [model.tasks[n] for n in probabilities(model).argmax(-1).tolist()] == model.tasks_of(TALKS)
    for task in ("chat", "maths"):
        reward_N = model.output(model.features(TALKS, task=task), task=task).reward_N
        for n, score in enumerate(scores):
            if score.task == task:
                assert score.reward == pytest.approx(float(reward_N[n]), abs=1e-6)


def test_a_score_says_what_the_router_chose_and_how_sure_it_was() -> None:
    model = two_tasks()
    best = probabilities(model).max(-1).values.tolist()
    for score, confidence in zip(model.score(TALKS), best, strict=True):
        assert (score.routed, score.confidence) == (score.task, pytest.approx(confidence, abs=1e-6))
        assert 0.5 <= score.confidence < 1
    assert {(score.routed, score.confidence) for score in one_task().score(TALKS)} == {("all", 1.0)}
    assert all(0.5 <= score.confidence <= 1 for score in routed().score(QUESTIONS))


def test_below_the_threshold_rows_go_to_the_fall_back() -> None:
    plain = two_tasks().score(TALKS)
    threshold = sorted(score.confidence for score in plain)[8]
    model = two_tasks(fallback="chat", threshold=threshold)
    scores = model.score(TALKS)
    moved = 0
    for before, after in zip(plain, scores, strict=True):
        assert after.routed == before.routed == before.task
        assert after.confidence == before.confidence
        assert after.task == (before.task if before.confidence >= threshold else "chat")
        moved += after.task != before.task
        if after.task == before.task:
            assert after.reward == before.reward
    assert moved >= 4
    assert model.tasks_of(TALKS) == [score.task for score in scores]


def test_the_fall_back_may_be_a_mixture_that_the_router_does_not_know() -> None:
    mixtures = {**two_tasks().mixtures, "general": Mixture(experts("maths", MATHS, 8), network(2, 8))}
    model = RewardModel(encoder(), mixtures, router(), fallback="general", threshold=0.75)
    scores = model.score(TALKS)
    assert {score.task for score in scores} > {"general"}
    for score in scores:
        assert (score.task == "general") == (score.confidence < 0.75)
        assert score.routed != "general"


@pytest.mark.parametrize("make", [one_task, weighed, two_tasks, lambda: two_tasks(fallback="chat", threshold=0.8)])
def test_a_loaded_model_gives_bit_equal_scores(make: Callable[[], RewardModel], tmp_path: Path) -> None:
    saved = make()
    saved.save(tmp_path / "model")
    loaded = RewardModel.load(tmp_path / "model", load_encoder=hash_encoder)
    assert loaded.score(TALKS) == saved.score(TALKS)
    assert (loaded.hash, loaded.fallback, loaded.adapters) == (saved.hash, saved.fallback, saved.adapters)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    kept = [item["spec"]["experts"]["adapters"] for item in manifest["mixtures"]]
    assert kept == [list(mixture.adapters) for mixture in saved.mixtures.values()]


def test_the_fall_back_is_part_of_the_hash_only_where_there_is_one(tmp_path: Path) -> None:
    hashes = [
        two_tasks().hash,
        two_tasks(fallback="chat", threshold=0.8).hash,
        two_tasks(fallback="chat", threshold=0.7).hash,
        two_tasks(fallback="maths", threshold=0.8).hash,
    ]
    assert len({*hashes}) == 4
    routed().save(tmp_path / "plain")
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    written = {"format", "kind", "encoder", "router", "mixtures", "provenance", "versions", "hash", "checksum"}
    assert set(manifest) == written
    assert set(manifest["mixtures"][0]["spec"]) == {"beta", "debias", "experts", "aggregator"}
    assert set(manifest["mixtures"][0]["spec"]["experts"]) == {"kind", "objectives", "length"}
    assert set(manifest["mixtures"][0]["spec"]["aggregator"]) == {"kind", "scale", "edit", "gate"}


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ({"fallback": "poetry", "threshold": 0.8}, "unknown task 'poetry'"),
        ({"fallback": "chat", "threshold": 1.5}, "threshold is 1.5"),
        ({"fallback": "chat"}, "malformed fallback"),
        ("chat", "malformed fallback"),
    ],
)
def test_a_malformed_fall_back_is_refused(routing: object, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    two_tasks(fallback="chat", threshold=0.8).save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["routing"] = routing
    manifest.pop("checksum", None)
    manifest["hash"] = model_hash(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=message):
        RewardModel.load(folder, load_encoder=hash_encoder)


class AdapterPlaces(Section):
    path: str
    adapters: dict[str, str]


class PlacedEncoder(NamedHashEncoder):
    """Named adapters that lie in folders of their own."""

    def __init__(self, path: str, adapters: dict[str, str]) -> None:
        assert all(Path(place, "weights").is_file() for place in (path, *adapters.values()))
        super().__init__(16, named=list(adapters))
        self.places = adapters
        self.path = path

    @property
    def fingerprint(self) -> str:
        return fingerprint(list(self.adapters))

    def spec(self) -> dict[str, object]:
        return {"path": self.path, "adapters": dict(self.places)}

    def save_backbone(self, folder: Path) -> AdapterPlaces:
        places = {name: folder / "adapters" / name for name in self.adapters}
        for place in (folder, *places.values()):
            place.mkdir(parents=True, exist_ok=True)
            (place / "weights").touch()
        return AdapterPlaces(path=str(folder), adapters={name: str(place) for name, place in places.items()})


def test_a_copied_backbone_brings_its_adapters_along(tmp_path: Path) -> None:
    for name in ("trunk", *NAMED):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    made = two_tasks()
    placed = PlacedEncoder(str(tmp_path / "trunk"), {name: str(tmp_path / name) for name in NAMED})
    saved = RewardModel(placed, made.mixtures, made.router)
    saved.save(tmp_path / "copy", backbone="copy")
    (tmp_path / "copy").rename(tmp_path / "moved")
    loaded = RewardModel.load(tmp_path / "moved", load_encoder=lambda spec: PlacedEncoder(**spec))  # type: ignore[arg-type]
    assert loaded.score(TALKS) == saved.score(TALKS)
    manifest = json.loads((tmp_path / "moved" / "manifest.json").read_text())
    assert manifest["encoder"]["spec"]["adapters"]["maths-logic"] == "backbone/adapters/maths-logic"
    loaded.save(tmp_path / "moved", backbone="copy")
    assert RewardModel.load(tmp_path / "moved", load_encoder=lambda spec: PlacedEncoder(**spec)).hash == saved.hash  # type: ignore[arg-type]


def test_an_edit_keeps_the_fall_back() -> None:
    model = two_tasks(fallback="chat", threshold=0.8)
    assert model.with_mixture(model.mixture("maths"), task="maths").fallback == model.fallback


def test_features_of_one_task_are_not_taken_for_those_of_another() -> None:
    model = two_tasks()
    features = model.features(TALKS, task="maths")
    with pytest.raises(ModelError, match="name one of chat, maths"):
        model.score_features(features)
    scores = model.score_features(features, task="maths")
    assert {score.task for score in scores} == {"maths"}
    assert [score.routed for score in scores] == [score.task for score in model.score(TALKS)]
    with pytest.raises(ModelError, match="encode with these adapters, in this order: chat-empathy"):
        model.score_features(features, task="chat")
    with pytest.raises(ModelError, match="name one of chat, maths"):
        model.features(TALKS)


def test_a_row_that_cannot_be_read_is_named_by_its_own_number() -> None:
    class Strict(NamedHashEncoder):
        def encode(self, conversations: Sequence[Conversation], **kwargs: object) -> Features:  # type: ignore[override]
            for n, messages in enumerate(conversations):
                if messages[-1].content == "":
                    error = BackboneError("an empty answer", fix="give one")
                    raise error.at(f"conversation {n}", row=n)
            return super().encode(conversations, **kwargs)  # type: ignore[arg-type]

    model = two_tasks()
    strict = RewardModel(Strict(16, named=NAMED), model.mixtures, model.router)
    last = max(n for n, task in enumerate(model.tasks_of(TALKS)) if task == "maths")
    rows = [*TALKS]
    rows[last] = (*rows[last][:-1], rows[last][-1].model_copy(update={"content": ""}))
    with pytest.raises(BackboneError, match=f"conversation {last}: an empty answer") as caught:
        strict.score(rows)
    assert caught.value.row == last


def test_an_encoder_without_adapters_serves_models_without_adapters_alone() -> None:
    class Bare:
        """An encoder of the five members, whose encode takes no adapters."""

        def __init__(self) -> None:
            self._inner = HashEncoder(16)
            self.hidden_size, self.fingerprint = 16, self._inner.fingerprint
            self.template_hash, self.mode = self._inner.template_hash, "exact"

        def spec(self) -> dict[str, object]:
            return self._inner.spec()

        def encode(self, conversations: Sequence[Conversation], *, on_batch: object = None) -> Features:
            return self._inner.encode(conversations)

    bare = Bare()
    assert isinstance(bare, Encoder)
    assert not isinstance(bare, AdapterEncoder)
    assert not isinstance(BagOfWords(8), AdapterEncoder)
    ours = routed()
    assert RewardModel(bare, ours.mixtures, ours.router).tasks_of(QUESTIONS) == ours.tasks_of(QUESTIONS)
    assert RewardModel(bare, ours.mixtures, ours.router).score(QUESTIONS) == ours.score(QUESTIONS)
    with pytest.raises(ModelError, match="experts use 3 adapters, but a Bare supports none"):
        RewardModel(bare, {"all": Mixture(experts(), gated())})
    with pytest.raises(ModelError, match="the encoder has no adapter 'chat-empathy'"):
        RewardModel(NamedHashEncoder(16, named=NAMED[1:]), {"all": Mixture(experts(), gated())})


def test_half_a_fall_back_and_wrong_numbers_of_tasks_are_named() -> None:
    mixtures = two_tasks().mixtures
    reader = encoder()
    with pytest.raises(ModelError, match=r"a threshold of 0\.5 without a fallback"):
        RewardModel(reader, mixtures, router(), threshold=0.5)
    with pytest.raises(ModelError, match="a fallback without a router"):
        RewardModel(reader, {"all": mixtures["chat"]}, fallback="all", threshold=0.5)
    with pytest.raises(ModelError, match=r"threshold is 0\.0"):
        RewardModel(reader, mixtures, router(), fallback="chat")
    with pytest.raises(ModelError, match="did you mean 'maths'"):
        RewardModel(reader, mixtures, router(), fallback="math", threshold=0.5)
    with pytest.raises(ModelError, match="2 mixtures, but the router has 1 task"):
        RewardModel(reader, mixtures, router(1), fallback="chat", threshold=0.5)
    with pytest.raises(ModelError, match="2 mixtures, but the router has 3 task"):
        RewardModel(reader, mixtures, router(3), fallback="maths", threshold=0.5)


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (["a", "b"], "2 adapters for 3 objectives"),
        (["a", "b", "a"], "adapter 'a' is used twice"),
        (["a", "", "c"], "an adapter has no name"),
    ],
)
def test_experts_need_an_adapter_each(adapters: list[str], message: str) -> None:
    made = experts()
    with pytest.raises(ModelError, match=message):
        type(made)(made.objectives, made.weight_KD, made.bias_K, adapters=adapters)


def test_a_malformed_state_of_experts_is_refused() -> None:
    tensors, spec = experts().state()
    for changed, message in (
        ({"adapters": "chat-empathy"}, "adapters is 'chat-empathy'"),
        ({"adapters": [1, 2, 3]}, "adapters is"),
        ({"objectives": [{"name": "x", "low": 1, "high": 0}]}, "below high"),
        ({"objectives": 3}, "malformed"),
    ):
        with pytest.raises(ModelError, match=message):
            type(experts()).from_state(tensors, {**spec, **changed})
    with pytest.raises(ModelError, match=r"'experts\.length' is unexpected"):
        type(experts()).from_state({**tensors, "length": torch.ones(1)}, spec)


def test_each_head_reads_its_own_adapter() -> None:
    made = experts()
    features = two_tasks().features(TALKS, task="chat")
    before = made(features)
    response_NKD = features.response_NAD
    expected = torch.stack([response_NKD[:, k] @ made.weight_KD[k] + made.bias_K[k] for k in range(3)], dim=1)
    assert torch.allclose(before, expected, atol=1e-6)
    response_NKD[:, 1] += 1.0
    moved = (made(features) - before).abs().max(0).values > 1e-6
    assert moved.tolist() == [False, True, False]
    with pytest.raises(ModelError, match="cast to"):
        made.to(torch.bfloat16)(features)
