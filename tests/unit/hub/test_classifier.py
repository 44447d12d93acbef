"""Scalar reward models of Transformers on our engine: the head is there, and it reads the last token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForSequenceClassification,
    PreTrainedTokenizerBase,
)

from facetrm import load_model
from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation
from fakes import tiny_decoder, tiny_tokenizer
from published_samples import ROWS, change_tensors


def classifier(folder: Path, *, pad: str | None = None, labels: int = 1) -> Path:
    """Write a random Llama with a classification head."""
    tiny_decoder(folder, pad=pad)
    with quiet_transformers():
        config = LlamaConfig.from_pretrained(folder, num_labels=labels)
        torch.manual_seed(3)
        model = LlamaForSequenceClassification.from_pretrained(folder, config=config)
        torch.nn.init.normal_(model.score.weight, std=0.3)
        model.save_pretrained(folder)
    return folder


def templated(tokenizer: PreTrainedTokenizerBase, row: Conversation) -> list[int]:
    return tokenizer.apply_chat_template([m.model_dump(include={"role", "content"}) for m in row], return_dict=False)


def test_scores_are_those_of_transformers_one_by_one(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    theirs, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        want = [float(theirs(torch.tensor([templated(tokenizer, row)])).logits[0, 0]) for row in ROWS]
    scores = load_model(folder).score(ROWS)
    assert [s.reward for s in scores] == pytest.approx(want, abs=1e-5)
    assert [s.contributions["score"] for s in scores] == pytest.approx(want, abs=1e-5)
    assert max(want) - min(want) > 0.05


def test_weights_that_transformers_renames_while_it_loads_are_read(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("llama3")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(
        **shape,
        num_key_value_heads=2,
        num_local_experts=4,
        vocab_size=len(tokenizer),
        num_labels=1,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    theirs = MixtralForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        want = [float(theirs(torch.tensor([templated(tokenizer, row)])).logits[0, 0]) for row in ROWS]
    assert [s.reward for s in load_model(tmp_path).score(ROWS)] == pytest.approx(want, abs=1e-5)


def test_where_padding_is_the_end_of_turn_only_we_read_the_last_token(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm", pad="<|eot_id|>")
    theirs, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = torch.tensor([templated(tokenizer, ROWS[0])])
    with torch.no_grad():
        head, trunk = float(theirs(ids).logits[0, 0]), theirs.model(ids)[0][0]
        before, last = (float(theirs.score(trunk[at])[0]) for at in (-2, -1))
    ours = load_model(folder).score(ROWS[:1])[0].reward
    assert ours == pytest.approx(last, abs=1e-5)
    assert head == pytest.approx(before, abs=1e-5), "the trap: Transformers reads the token before it"
    assert abs(last - before) > 0.01


def test_a_head_that_was_not_saved_is_an_error(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    change_tensors(folder, drop=["score.weight"])
    with pytest.raises(ModelError, match=r"'score\.weight' is missing.*initialise one at random"):
        load_model(folder)


def test_two_labels_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\[2, 32\], and it is not defined how to combine several labels"):
        load_model(classifier(tmp_path / "rm", labels=2))


def test_another_head_beside_the_score_is_an_error(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    change_tensors(folder, score__2__weight=torch.ones(1, 32))
    with pytest.raises(ModelError, match=r"'score\.2\.weight' is unexpected"):
        load_model(folder)


def test_any_other_tensor_beside_the_head_is_an_error(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    change_tensors(folder, norm_head__weight=torch.ones(1, 32))
    with pytest.raises(ModelError, match=r"'norm_head\.weight' is unexpected"):
        load_model(folder)


def test_two_checkpoints_in_one_folder_are_an_error(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}', encoding="utf-8")
    with pytest.raises(ModelError, match="two checkpoints"):
        load_model(folder)


def test_a_setting_that_would_read_another_model_is_an_error(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    with pytest.raises(ModelError, match="'kind' would load a different model"):
        load_model(folder, settings={"kind": "encoder"})


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    folder = tiny_decoder(tmp_path / "lm")
    assert isinstance(LlamaForCausalLM.from_pretrained(folder), LlamaForCausalLM)
    with pytest.raises(ModelError, match=r"'LlamaForCausalLM' is not a reward model.*a backbone, fit heads"):
        load_model(folder)


def test_an_adapter_beside_the_weights_is_an_error(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="merge the adapter"):
        load_model(folder)
