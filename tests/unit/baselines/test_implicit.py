"""The implicit reward against one plain forward pass per row, its formulas, and its folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers as tf

from facetrm.backbone.causal import CausalReader, pad_left
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.headed import HeadedModel, load_headed
from facetrm.backbone.text.chat import Tokenized
from facetrm.baselines.trained.implicit import ImplicitRewardScorer, load_implicit
from facetrm.baselines.trained.rival_folder import write_manifest
from facetrm.baselines.trained.rivals import load_rival
from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation
from facetrm.model.door import RIVAL_MANIFEST
from fakes import chat, tiny_decoder
from tiny_decoders import GPT2, SHAPE, WHOLE_HEADS, ids

TEXTS = [("why?", "yes"), ("what is blue, and why?", "the sky, of course, because of the sun"), ("tea", "no thanks")]
ROWS = [chat(*texts) for texts in TEXTS] + [chat("a", "b", "and then?", "nothing at all", system="be kind")]


def changed(folder: Path, source: Path, *, seed: int) -> Path:
    """Write the model in ``source`` with a little noise on all weights to ``folder`` and return it."""
    shutil.copytree(source, folder)
    model = tf.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama3", "chatml"])
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp(request.param)
    reference = tiny_decoder(place / "reference", style=request.param)
    return changed(place / "policy", reference, seed=1), reference


def opened(folder: Path, **settings) -> HeadedModel:
    return load_headed(BackboneConfig(path=str(folder), device="cpu", **settings), "language")


def by_hand(folder: Path, messages: Conversation) -> tuple[float, int]:
    """Return the response's log-probability and length from plain Transformers: one row, no padding, a loop."""
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    turns = [{"role": m.role, "content": m.content} for m in messages]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    start = len(tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False))
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), dim=-1)
    return sum(float(log_probs[t - 1, whole[t]]) for t in range(start, len(whole))), len(whole) - start


def test_every_formula_is_that_of_plain_transformers(folders: tuple[Path, Path]) -> None:
    policy, reference = folders
    for messages in ROWS:
        (ours, length), (theirs, _) = by_hand(policy, messages), by_hand(reference, messages)
        expected = {"dpo": 0.3 * (ours - theirs), "ipo": 0.3 * (ours - theirs) / length, "slic": ours / length}
        for kind, reward in expected.items():
            scorer = ImplicitRewardScorer(opened(policy), opened(reference), beta=0.3, kind=kind)
            (score,) = scorer.score([messages])
            assert score.reward == pytest.approx(reward, abs=1e-4), kind
            assert score.length == length
            assert score.contributions == {"reward": score.reward}
            assert score.model == scorer.hash


def test_batches_give_the_same_as_one_by_one(folders: tuple[Path, Path]) -> None:
    policy, reference = (opened(folder) for folder in folders)
    together = [s.reward for s in ImplicitRewardScorer(policy, reference).score([*ROWS, *ROWS])]
    alone = [s.reward for s in ImplicitRewardScorer(policy, reference, mode="exact").score(ROWS)]
    assert together[: len(ROWS)] == together[len(ROWS) :]
    assert together[: len(ROWS)] == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 1e-3
    assert ImplicitRewardScorer(policy, reference).score([]) == []


ARCHITECTURES = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SHAPE)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SHAPE, head_dim=8)),
    "mistral, window of 6": lambda: tf.MistralForCausalLM(tf.MistralConfig(**SHAPE, sliding_window=6)),
    "gpt2, absolute positions": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2)),
    "gpt-neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**WHOLE_HEADS)),
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**SHAPE, num_local_experts=4)),
}


@dataclass(frozen=True)
class Bare:
    """What a reader needs of an encoder."""

    model: tf.PreTrainedModel
    pad: int = 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_changes_nothing_in_any_architecture(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ARCHITECTURES[name]().eval()
    headed = HeadedModel(model, Bare(model.base_model))  # type: ignore[arg-type]
    rows = [Tokenized(ids(length, length), 2, 3, length - 3) for length in (5, 9, 17, 40)]
    together = CausalReader(headed, token_budget=1000).response_log_probs(rows)
    for row, found in zip(rows, together.tolist(), strict=True):
        with torch.no_grad():
            log_probs = torch.log_softmax(model(torch.tensor([row.ids])).logits[0].double(), dim=-1)
        expected = sum(float(log_probs[t - 1, row.ids[t]]) for t in range(3, len(row.ids)))
        assert found == pytest.approx(expected, abs=1e-3)
    logits = CausalReader(headed, token_budget=1000).next_logits([row.ids for row in rows], (7, 9))
    for row, found in zip(rows, logits, strict=True):
        with torch.no_grad():
            plain = model(torch.tensor([row.ids])).logits[0, -1, [7, 9]]
        assert torch.allclose(found, plain, atol=1e-4)


def test_rows_are_padded_on_the_left() -> None:
    ids_NL, mask_NL = pad_left([[5], [6, 7, 8]], pad=0)
    assert ids_NL.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask_NL.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_what_cannot_be_scored_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    policy = opened(folders[0])
    with pytest.raises(ModelError, match="'dpo' needs a reference model"):
        ImplicitRewardScorer(policy, None)
    with pytest.raises(ModelError, match="beta 0"):
        ImplicitRewardScorer(policy, policy, beta=0)
    other = opened(tiny_decoder(tmp_path / "other", style="gemma"))
    with pytest.raises(ModelError, match="other tokens than the policy"):
        ImplicitRewardScorer(policy, other)


def test_the_hash_follows_everything_that_changes_a_reward(folders: tuple[Path, Path]) -> None:
    policy, reference = (opened(folder) for folder in folders)
    scorers = [
        ImplicitRewardScorer(policy, reference),
        ImplicitRewardScorer(policy, reference, beta=0.2),
        ImplicitRewardScorer(policy, reference, kind="ipo"),
        ImplicitRewardScorer(policy, None, kind="slic"),
        ImplicitRewardScorer(policy, policy),
        ImplicitRewardScorer(opened(folders[0], max_tokens=100), reference),
    ]
    assert len({scorer.hash for scorer in scorers}) == len(scorers)
    assert scorers[0].hash == ImplicitRewardScorer(opened(folders[0]), opened(folders[1])).hash
    assert [scorers[0].name, scorers[2].name] == ["dpo", "ipo"]


@pytest.fixture
def saved(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return a folder with a policy that refers to its reference."""
    policy = Path(shutil.copytree(folders[0], tmp_path / "policy"))
    models = opened(policy), opened(folders[1])
    scorer = ImplicitRewardScorer(*models, beta=0.3, kind="ipo")
    specs = [model.encoder.config.model_copy(update={"max_tokens": model.encoder.max_tokens}) for model in models]
    settings = {"kind": "ipo", "beta": 0.3, "reference": specs[1].model_dump(mode="json")}
    write_manifest(policy, "implicit", hash=scorer.hash, backbone=specs[0], settings=settings)
    return policy


def test_a_folder_is_loaded_and_its_reference_is_checked(
    saved: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = [s.reward for s in ImplicitRewardScorer(*map(opened, folders), beta=0.3, kind="ipo").score(ROWS)]
    scorer = load_rival(saved, device="cpu")
    assert [s.reward for s in scorer.score(ROWS)] == expected
    moved = Path(shutil.copytree(folders[1], tmp_path / "moved"))
    assert load_implicit(saved, reference=str(moved), device="cpu").hash == scorer.score(ROWS[:1])[0].model
    wrong = changed(tmp_path / "wrong", folders[1], seed=5)
    with pytest.raises(ModelError, match="the files were changed"):
        load_implicit(saved, reference=str(wrong), device="cpu")


@pytest.mark.parametrize(
    ("change", "said"), [({"beta": "much"}, "beta is 'much'"), ({"reference": []}, "'reference' is not a section")]
)
def test_a_broken_manifest_is_refused(saved: Path, change: dict[str, object], said: str) -> None:
    manifest = json.loads((saved / RIVAL_MANIFEST).read_text())
    manifest["settings"].update(change)
    (saved / RIVAL_MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=said):
        load_rival(saved, device="cpu")
