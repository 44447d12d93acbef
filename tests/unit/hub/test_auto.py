"""Native folders through AutoModelForSequenceClassification, and as TRL's reward function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    LlamaForCausalLM,
)
from trl import GRPOConfig, GRPOTrainer

from adapter_models import NAMED, one_task
from facetrm import load_model
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import ModelError
from facetrm.hub.auto import FacetrmConfig, FacetrmForSequenceClassification, register
from facetrm.model.door import CONFIG, open_to_others
from facetrm.model.gate import Gate, GateShape
from facetrm.model.reward_model import RewardModel
from fakes import STYLES, chat, tiny_decoder, tiny_encoder, tiny_tokenizer
from gated_models import SIZE, encoder, mixture, model
from published_samples import ROWS

MESSAGES = [[m.model_dump(include={"role", "content"}) for m in row] for row in ROWS]


@pytest.fixture(scope="module", params=["copy", "reference"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("native")
    model(place / "backbone-of-its-own").save(place / "model", backbone=request.param)
    return place / "model"


def batch(folder: Path, side: str) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    return dict(tokenizer(texts, padding=True, padding_side=side, add_special_tokens=False, return_tensors="pt"))


def rewards(folder: Path) -> torch.Tensor:
    return torch.tensor([s.reward for s in load_model(folder).score(ROWS)])


def test_the_folder_loads_with_no_remote_code(folder: Path) -> None:
    loaded, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert isinstance(loaded, FacetrmForSequenceClassification)
    assert not any(report.values())
    config = AutoConfig.from_pretrained(folder)
    assert config.problem_type == "regression"
    assert list(config.id2label.values()) == list(load_model(folder).mixture().names)
    assert config.pad_token_id is not None
    assert config.pad_token_id != config.eos_token_id
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == config.pad_token_id
    assert not loaded.training


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("masked", [True, False])
def test_logits_are_the_rewards(folder: Path, side: str, masked: bool) -> None:
    loaded, inputs = AutoModelForSequenceClassification.from_pretrained(folder), batch(folder, side)
    if not masked:
        inputs = {"input_ids": inputs["input_ids"]}
    with torch.no_grad():
        output = loaded(**inputs)
    assert output.logits.shape == (len(ROWS), 1)
    want = rewards(folder)
    assert (output.logits[:, 0] - want).abs().max() < 1e-5
    assert (output.base + output.contributions.sum(-1) - want).abs().max() < 1e-5
    assert want.std() > 0.01


def test_heads_stay_in_float32(folder: Path) -> None:
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    loaded = loaded.to(torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert {t.dtype for t in loaded.heads.state_dict().values() if t.is_floating_point()} == {torch.float32}
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = plain(**batch(folder, "right"))
    assert mixed.logits.dtype == torch.float32
    head = load_model(folder).mixture().experts
    exact = mixed.hidden_state.float() @ head.weight_KD.T + head.bias_K
    assert (mixed.rewards[:, :-1] - exact).abs().max() < 1e-6, "the heads did not compute in bfloat16"


@pytest.mark.parametrize("style", STYLES)
def test_every_template_opens_the_door(tmp_path: Path, style: str) -> None:
    RewardModel(encoder(tmp_path / style, style=style), {"all": mixture()}).save(tmp_path / "model")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    with torch.no_grad():
        found = loaded(**batch(tmp_path / "model", "right")).logits[:, 0]
    assert (found - rewards(tmp_path / "model")).abs().max() < 1e-5


def test_padding_that_is_the_end_of_turn_is_replaced(tmp_path: Path) -> None:
    made = encoder(tmp_path / "b", pad="<|eot_id|>")
    RewardModel(made, {"all": mixture()}).save(tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.pad_token_id != config.eos_token_id == made.tokenizer.pad_token_id
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        found = loaded(input_ids=batch(tmp_path / "model", "left")["input_ids"]).logits[:, 0]
    assert (found - rewards(tmp_path / "model")).abs().max() < 1e-5


def test_a_routed_model_gives_each_row_its_task(tmp_path: Path) -> None:
    made = encoder(tmp_path / "b")
    prompt_ND = made.encode(ROWS).prompt_ND
    across_D, middle_D = prompt_ND[0] - prompt_ND[1], (prompt_ND[0] + prompt_ND[1]) / 2
    router = Gate(GateShape(SIZE, 2, hidden=8, n_hidden=0))
    state = router.state_dict() | {"head.weight": torch.stack([across_D, -across_D])}
    router.load_state_dict(state | {"bias_K": torch.tensor([-1.0, 1.0]) * (across_D @ middle_D)})
    ours = RewardModel(made, {"chat": mixture(), "maths": mixture(seed=5)}, router)
    ours.save(tmp_path / "model")
    assert {s.task for s in ours.score(ROWS)} == {"chat", "maths"}
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        found = loaded(**batch(tmp_path / "model", "left")).logits[:, 0]
    assert found.tolist() == pytest.approx([s.reward for s in ours.score(ROWS)], abs=1e-5)


def test_a_saved_copy_is_a_native_folder(folder: Path, tmp_path: Path) -> None:
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "copy")
    assert torch.equal(rewards(tmp_path / "copy"), rewards(folder))


BARE = "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST] ' if m.role == 'user' else m.content + eos_token }}"


def test_a_template_whose_opening_an_answer_may_hold_has_no_door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_decoder(tmp_path / "b")
    (tmp_path / "bare.jinja").write_text(BARE + "{% endfor %}", encoding="utf-8")
    config = BackboneConfig(path=str(tmp_path / "b"), device="cpu", template=str(tmp_path / "bare.jinja"))
    ours = RewardModel(load_encoder(config), {"all": mixture()})
    ours.save(tmp_path / "model")
    assert not (tmp_path / "model" / "config.json").exists()
    assert "nothing but ordinary text" in capsys.readouterr().err


def test_an_answer_that_begins_like_the_opening_ends_is_read_in_its_own_turn(tmp_path: Path) -> None:
    ours = RewardModel(encoder(tmp_path / "b", style="merging"), {"all": mixture()})
    ours.save(tmp_path / "model")
    rows = [chat("hi", "\nfine"), chat("hi", "x", "more", "\nfine"), chat("hi", "x", "more", "\n\nfine")]
    loaded, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"),
        AutoTokenizer.from_pretrained(tmp_path / "model"),
    )
    texts = [[m.model_dump(include={"role", "content"}) for m in row] for row in rows]
    with torch.no_grad():
        found = [
            float(loaded(tokenizer.apply_chat_template(t, return_tensors="pt", return_dict=False)).logits)
            for t in texts
        ]
    assert found == pytest.approx([s.reward for s in ours.score(rows)], abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_padded_row_without_a_mask_is_read_without_its_padding(folder: Path, side: str) -> None:
    loaded, inputs = AutoModelForSequenceClassification.from_pretrained(folder), batch(folder, side)
    short = min(range(len(ROWS)), key=lambda n: int(inputs["attention_mask"][n].sum()))
    with torch.no_grad():
        found = loaded(input_ids=inputs["input_ids"][short : short + 1]).logits[0, 0]
    assert found == pytest.approx(float(rewards(folder)[short]), abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_absolute_positions_count_without_the_padding(tmp_path: Path, side: str) -> None:
    tokenizer = tiny_tokenizer("llama3")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=SIZE, n_layer=2, n_head=4, n_positions=512)
    config.initializer_range = 0.2
    torch.manual_seed(0)
    GPT2Model(config).save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    model(tmp_path / "b").save(tmp_path / "model")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        found = loaded(**batch(tmp_path / "model", side)).logits[:, 0]
    assert (found - rewards(tmp_path / "model")).abs().max() < 1e-5


def test_a_trained_trunk_is_saved_over_its_own_folder(tmp_path: Path) -> None:
    model(tmp_path / "b").save(tmp_path / "model", backbone="copy")
    before = rewards(tmp_path / "model")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    loaded.save_pretrained(tmp_path / "model")
    after = rewards(tmp_path / "model")
    assert (after - before).abs().max() > 1e-3
    with torch.no_grad():
        assert (loaded(**batch(tmp_path / "model", "right")).logits[:, 0] - after).abs().max() < 1e-5
    cast = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype="bfloat16")
    cast.save_pretrained(tmp_path / "half")
    assert (rewards(tmp_path / "half") - after).abs().max() < 0.3


def test_an_encoder_has_no_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert = load_encoder(BackboneConfig(path=str(tiny_encoder(tmp_path / "bert")), device="cpu"))
    RewardModel(bert, {"all": mixture()}).save(tmp_path / "model")
    assert not (tmp_path / "model" / "config.json").exists()
    assert "no config.json for other programs" in capsys.readouterr().err
    assert len(load_model(tmp_path / "model").score(ROWS)) == len(ROWS)


def test_bad_arguments_are_named(folder: Path) -> None:
    with pytest.raises(ModelError, match="'quantization_config' is not supported"):
        AutoModelForSequenceClassification.from_pretrained(folder, quantization_config=object())
    with pytest.raises(ModelError, match="'state_dict' is not supported"):
        FacetrmForSequenceClassification.from_pretrained(folder, state_dict={"a": 1})
    with pytest.raises(ModelError, match="'attn_implementation' is not supported"):
        FacetrmForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    with pytest.raises(ModelError, match="dtype 'bfloat17'"):
        FacetrmForSequenceClassification.from_pretrained(folder, dtype="bfloat17")
    with pytest.raises(ModelError, match="splits the model"):
        AutoModelForSequenceClassification.from_pretrained(folder, device_map={"model": 0, "heads": 1})
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, device_map="cpu")
    with pytest.raises(ValueError, match="they are needed to find the end of the prompt"):
        loaded()
    with pytest.raises(ModelError, match=r"facetrm\.push_to_hub"):
        loaded.save_pretrained(folder.parent / "x", push_to_hub=True)


def test_registering_twice_changes_nothing() -> None:
    register()
    assert AutoConfig.for_model("facetrm").__class__ is FacetrmConfig


def test_a_folder_is_a_reward_function_of_trl(folder: Path, tmp_path: Path) -> None:
    tiny_decoder(tmp_path / "policy")
    seen: list[float] = []
    ours, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    policy = LlamaForCausalLM.from_pretrained(tmp_path / "policy")
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"say {n}"}]} for n in range(4)])

    def watch(prompts: list, completions: list, **_: object) -> list[float]:
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        with torch.no_grad():
            ids = [tokenizer.apply_chat_template(row, return_tensors="pt", return_dict=False) for row in rows]
            seen.append(sum(float(ours(one).logits[0, 0]) for one in ids) / len(rows))
        return [0.0] * len(prompts)

    config = GRPOConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        max_steps=2,
        bf16=False,
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        gradient_checkpointing=False,
    )
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=[str(folder), watch],
        args=config,
        train_dataset=prompts,
        processing_class=tokenizer,
    )
    trainer.train()
    logged = [row[name] for row in trainer.state.log_history if (name := f"rewards/{folder.name}/mean") in row]
    assert len(logged) == 2
    assert logged == pytest.approx(seen, abs=1e-4)
    assert abs(logged[0] - logged[1]) > 1e-6


def test_experts_with_adapters_have_no_door_for_programs_that_make_one_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = model(tmp_path / "b")
    open_to_others(tmp_path, ours.encoder, ours.mixture().names)
    assert (tmp_path / CONFIG).is_file()
    open_to_others(tmp_path, ours.encoder, one_task().mixture().names, adapters=NAMED)
    assert not (tmp_path / CONFIG).exists()
    assert "the experts use 5 adapters" in capsys.readouterr().err
    ours.mixtures["all"] = one_task().mixture()
    with pytest.raises(ModelError, match="the experts use 3 adapters, but a classifier makes a single pass"):
        FacetrmForSequenceClassification(FacetrmConfig(), ours)
