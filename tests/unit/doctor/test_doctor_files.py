"""What files tell without a score: heads, tensors, settings, templates; and what they must not be blamed for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from facetrm.core.errors import ModelError
from facetrm.data.world import World
from facetrm.doctor.artefact import read_artefact
from facetrm.doctor.inspection import inspect_files
from fakes import tiny_decoder, tiny_tokenizer
from model_files import WEIGHTS, config, found, weights
from planting import planted

TALK = next(World().ratings(1)).messages


def template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)


def test_a_healthy_folder_has_no_finding(healthy: Path) -> None:
    artefact = read_artefact(str(healthy))
    assert artefact.kind == "classifier"
    assert inspect_files(artefact) == []
    assert artefact.tensors["score.weight"].shape == (1, planted.SIZE)
    assert artefact.expected is not None
    assert dict(artefact.expected.head) == {"score.weight": (1, planted.SIZE)}


# --- weights


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    finding = found(tiny_decoder(tmp_path / "model"))["head-missing"]
    assert "lm_head" not in finding.problem
    assert "LlamaForCausalLM" in finding.problem
    assert finding.severity == "error"


def test_a_head_of_another_name_is_named(folder: Path) -> None:
    weights(folder, lambda t: t.update({"v_head.weight": t.pop("score.weight")}))
    assert "v_head.weight" in found(folder)["head-missing"].measured


def test_one_value_of_the_head_is_enough(folder: Path) -> None:
    weights(folder, lambda t: t["score.weight"].view(-1)[3].fill_(float("inf")))
    assert f"1 of {planted.SIZE} values" in found(folder)["head-not-finite"].measured


def test_a_constant_head_was_not_trained(folder: Path) -> None:
    weights(folder, lambda t: t["score.weight"].fill_(0.5))
    assert "constant" in found(folder)["head-untrained"].problem


def test_an_index_that_names_what_no_file_holds(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": WEIGHTS, "model.layers.9.mlp.up_proj.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    finding = found(folder)["weights-missing"]
    assert "index" in finding.problem
    assert finding.measured == "model.layers.9.mlp.up_proj.weight"


def test_a_torn_file_is_named(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-50])
    assert WEIGHTS in found(folder)["does-not-load"].measured


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in found(folder)["weights-missing"].measured


def test_a_configuration_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in found(folder)["does-not-load"].measured


def test_names_that_a_loader_converts_are_no_holes(folder: Path) -> None:
    weights(folder, lambda t: t.update({"model.layers.0.mlp.experts.0.w1.weight": t.pop("model.norm.weight")}))
    assert "weights-missing" not in found(folder)


def adapter(folder: Path, *names: str, **settings: object) -> Path:
    folder.mkdir()
    tensors = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4)}
    save_file({**tensors, **{name: torch.ones(1, 4) for name in names}}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    return folder


def test_an_adapter_with_its_head_is_whole(tmp_path: Path) -> None:
    assert found(adapter(tmp_path / "a", "base_model.model.score.weight")) == {}


def test_a_promise_in_modules_to_save_is_not_enough(tmp_path: Path) -> None:
    finding = found(adapter(tmp_path / "a", modules_to_save=["score"]))["adapter-head"]
    assert "modules_to_save names score" in finding.measured


def test_gated_weights_without_their_gate(folder: Path) -> None:
    weights(folder, lambda t: t.update({"regression_layer.weight": t.pop("score.weight")}))
    config(folder, architectures=["LlamaForRewardModelWithGating"])
    by_code = found(folder)
    assert "gating." in by_code["head-missing"].problem
    assert by_code["gated-head"].severity == "note"


# --- settings


def test_the_default_number_of_labels_is_two(folder: Path) -> None:
    config(folder, id2label=None, label2id=None)
    assert "Transformers uses 2" in found(folder)["num-labels"].problem


def test_code_of_its_own(folder: Path) -> None:
    config(folder, auto_map={"AutoModel": "mine.Model"})
    assert "AutoModel" in found(folder)["remote-code"].measured


def test_an_embedding_of_another_size_than_the_configuration_says(folder: Path) -> None:
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    config(folder, vocab_size=rows + 8)
    assert f"config.json says {rows + 8}" in found(folder)["vocabulary"].problem


def test_spare_rows_of_the_embedding_are_fine(tmp_path: Path) -> None:
    folder = planted.write_classifier(tmp_path / "model")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] + 8
    weights(folder, lambda t: t.update({"model.embed_tokens.weight": torch.randn(rows, planted.SIZE)}))
    config(folder, vocab_size=rows)
    assert found(folder) == {}


def test_a_pad_of_the_tokenizer_alone_is_not_enough(folder: Path) -> None:
    config(folder, pad_token_id=None)
    finding = found(folder)["pad-missing"]
    assert "pads with 0" in finding.measured


def test_one_of_several_end_tokens_as_padding(folder: Path) -> None:
    config(folder, eos_token_id=[2, 0])
    finding = found(folder)["pad-is-eos"]
    assert "pad_token_id 0 is the end token" in finding.problem
    # Turns are closed with another one, so that what is read in a rendered conversation is right.
    assert finding.severity == "note"
    config(folder, eos_token_id=[0, 2], pad_token_id=2)
    config(folder, "tokenizer_config.json", pad_token="<end>")
    assert found(folder)["pad-is-eos"].severity == "warning"


def test_a_tokenizer_without_a_limit_is_not_blamed(folder: Path) -> None:
    config(folder, "tokenizer_config.json", model_max_length=int(1e30))
    assert "max-length" not in found(folder)


# --- templates

PLAIN = "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"


def test_a_missing_tokenizer(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    assert found(folder)["tokenizer-missing"].severity == "error"


def test_a_template_that_refuses(folder: Path) -> None:
    template(folder, "{{ raise_exception('no such thing as a turn') }}")
    assert "no such thing as a turn" in found(folder)["template-fails"].measured


def test_a_template_that_refuses_system_turns_is_fine(folder: Path) -> None:
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template(folder, "{{ bos_token }} " + refuse + PLAIN)
    assert found(folder) == {}


def test_bos_twice_in_the_template_is_an_error(folder: Path) -> None:
    template(folder, "{{ bos_token }} {{ bos_token }} " + PLAIN)
    finding = found(folder)["double-bos"]
    assert finding.severity == "error"
    assert "in every way" in finding.measured


@pytest.mark.parametrize("style", ["llama3", "chatml", "gemma"])
def test_known_styles(style: str, folder: Path) -> None:
    tiny_tokenizer(style, pad=None).save_pretrained(folder)
    config(folder, "tokenizer_config.json", pad_token=None)
    codes = set(found(folder)) - {"vocabulary"}
    # ChatML has no BOS at all; the other two add it in the tokenizer as well as in the template.
    assert codes - {"pad-mismatch", "pad-is-eos"} == (set() if style == "chatml" else {"double-bos"})


def test_a_thinking_block_in_an_answer(folder: Path) -> None:
    template(folder, "{{ bos_token }} " + PLAIN.replace("{{ m.content }}", "<think> </think> {{ m.content }}"))
    assert "in a rendered answer: '<think>'" in found(folder)["template-think"].measured


def test_thoughts_of_an_earlier_answer_that_are_dropped(folder: Path) -> None:
    content = "{{ m.content if loop.last else m.content.split()[0] }}"
    template(folder, "{{ bos_token }} " + PLAIN.replace("{{ m.content }}", content))
    assert found(folder)["template-rewrites"].measured.startswith("alone 'answer <end>', later '<end>")


def test_a_tokenizer_of_gpt2s_kind_is_not_blamed_for_bos(folder: Path) -> None:
    template(folder, PLAIN)
    config(folder, "tokenizer_config.json", bos_token="<end>")
    assert "no-bos" not in found(folder)


JUNK = [5, "x", [], [1], {"a": {}}, True]
SETTINGS = {
    "config.json": [
        "id2label",
        "num_labels",
        "pad_token_id",
        "eos_token_id",
        "architectures",
        "auto_map",
        "vocab_size",
    ],
    "tokenizer_config.json": ["chat_template", "pad_token", "bos_token", "model_max_length"],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in SETTINGS.items() for key in keys])
def test_settings_of_the_wrong_kind_end_in_findings_not_in_an_exception(name: str, key: str, folder: Path) -> None:
    for value in JUNK:
        config(folder, name, **{key: value})
        assert all(finding.fix for finding in found(folder).values()), value


@pytest.mark.parametrize("text", ["{{ 1 / 0 }}", "{% for %}", "{{ messages[9].content }}", "{{ nothing() }}"])
def test_a_template_is_a_program_that_may_fail(text: str, folder: Path) -> None:
    template(folder, text)
    assert "template-fails" in found(folder)


def test_no_such_folder() -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        read_artefact("./nothing/at/all")


# --- what a template leaves out


def test_an_answers_reasoning_that_is_cut_is_a_warning(folder: Path) -> None:
    cut = "{% for m in messages %}<{{ m.role }}> {{ m.content.split('</think>')[-1] }} <end> {% endfor %}"
    template(folder, "{{ bos_token }} " + cut)
    finding = found(folder)["template-drops"]
    assert finding.severity == "warning"
    assert "the reasoning" in finding.measured


@pytest.mark.parametrize("content", ["''", "m.content[:5]", "(m.content if m.role == 'user' else '')"])
def test_an_answers_text_that_is_dropped_or_cut_is_an_error(content: str, folder: Path) -> None:
    template(folder, "{{ bos_token }} {% for m in messages %}<{{ m.role }}> {{ " + content + " }} <end> {% endfor %}")
    finding = found(folder)["template-drops"]
    assert finding.severity == "error"
    assert "turn 2 (assistant)" in finding.measured
