from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaModel,
)

from facetrm.backbone.encoder import Encoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder, tiny_encoder, tiny_tokenizer

ROWS = [
    chat("hi", "yes"),
    chat("a longer question, with words in it", "no"),
    chat("hi", "a rather long answer that goes on and on"),
    chat("one", "two", "three", "four", system="be brief"),
    chat("x", "y"),
    chat("one", "two", "three", "five five five", system="be brief"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    tokenizer = tiny_tokenizer("llama3", max_tokens=128)
    gpt2 = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    torch.manual_seed(0)
    GPT2LMHeadModel(gpt2).save_pretrained(root / "gpt2")
    tokenizer.save_pretrained(root / "gpt2")
    return {
        "llama, no pad": tiny_decoder(root / "llama"),
        "llama, pad is the end of turn": tiny_decoder(root / "pad", pad="<|eot_id|>"),
        "gemma template": tiny_decoder(root / "gemma", style="gemma", pad="<end_of_turn>"),
        "gpt2, absolute positions": root / "gpt2",
        "bert": tiny_encoder(root / "bert"),
    }


NAMES = ["llama, no pad", "llama, pad is the end of turn", "gpt2, absolute positions", "bert"]


def loaded(folder: Path, **settings) -> TransformerEncoder:
    return load_encoder(BackboneConfig(path=str(folder), **settings))


def close(one, other, tolerance=1e-5):
    for name in ("prompt_ND", "response_NAD"):
        assert (getattr(one, name) - getattr(other, name)).abs().max() < tolerance
    for name in ("length_N", "tokens_N", "truncated_N"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_equals_a_batch_of_many(folders, name):
    encoder = loaded(folders[name])
    assert isinstance(encoder, Encoder)
    together = encoder.encode(ROWS)
    for budget in (1, 90, 10_000):
        close(loaded(folders[name], token_budget=budget).encode(ROWS), together)
    for n, row in enumerate(ROWS):
        close(encoder.encode([row]), together.select(torch.tensor([n])))
    backwards = encoder.encode(ROWS[::-1])
    close(backwards.select(torch.arange(len(ROWS) - 1, -1, -1)), together)
    assert together.response_NAD.shape == (len(ROWS), 1, 32)
    distances = torch.cdist(together.response_NAD[:, 0], together.response_NAD[:, 0])
    assert distances.fill_diagonal_(1).min() > 0.01  # not a constant


@pytest.mark.parametrize("name", ["llama, pad is the end of turn", "gpt2, absolute positions"])
def test_decoder_features_are_the_hidden_states_of_the_language_model(folders, name):
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    model = AutoModelForCausalLM.from_pretrained(folders[name]).eval()
    features = loaded(folders[name]).encode(ROWS)
    for n, row in enumerate(ROWS):
        ids = tokenizer.apply_chat_template([m.model_dump() for m in row], return_dict=False, return_tensors="pt")
        prompt = tokenizer.apply_chat_template([m.model_dump() for m in row[:-1]], return_dict=False)
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[-1][0]
        assert (hidden[len(prompt) - 1] - features.prompt_ND[n]).abs().max() < 1e-5
        assert (hidden[-1] - features.response_NAD[n, 0]).abs().max() < 1e-5
        assert features.tokens_N[n] == ids.shape[1]


def test_gemma_reads_the_prompt_at_its_closing_token_and_the_response_at_the_last(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["gemma template"])
    model = AutoModel.from_pretrained(folders["gemma template"]).eval()
    features = loaded(folders["gemma template"]).encode([chat("hi", "yes")])
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
        return_dict=False,
        return_tensors="pt",
    )
    closers = (ids[0] == tokenizer.convert_tokens_to_ids("<end_of_turn>")).nonzero()[:, 0]
    with torch.no_grad():
        hidden = model(ids).last_hidden_state[0]
    assert (hidden[closers[0]] - features.prompt_ND[0]).abs().max() < 1e-5
    assert (hidden[-1] - features.response_NAD[0, 0]).abs().max() < 1e-5
    assert closers[1] == ids.shape[1] - 2


def test_encoder_features_are_means(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    model = AutoModel.from_pretrained(folders["bert"]).eval()
    features = loaded(folders["bert"]).encode([chat("what now", "go home")])
    with torch.no_grad():
        alone = model(**tokenizer("what now", return_tensors="pt")).last_hidden_state[0]
        pair = tokenizer("what now", "go home", return_tensors="pt")
        joint = model(**pair).last_hidden_state[0]
    answer = [i for i, side in enumerate(pair.sequence_ids(0)) if side == 1]
    assert (alone.mean(0) - features.prompt_ND[0]).abs().max() < 1e-5
    assert (joint[answer].mean(0) - features.response_NAD[0, 0]).abs().max() < 1e-5
    assert features.length_N.tolist() == [len(answer)] == [6]


@pytest.mark.parametrize("name", NAMES)
def test_what_features_depend_on(folders, name):
    features = loaded(folders[name]).encode([chat("q", "yes"), chat("q", "noo"), chat("p", "yes")])
    prompt, response = features.prompt_ND, features.response_NAD[:, 0]
    assert (prompt[0] - prompt[1]).abs().max() < 1e-5
    assert (prompt[0] - prompt[2]).abs().max() > 0.01
    assert (response[0] - response[1]).abs().max() > 0.01
    assert (response[0] - response[2]).abs().max() > 0.01  # the prompt is attended


def test_an_encoder_reads_a_prompt_once(folders):
    encoder = loaded(folders["bert"])
    seen = []
    rows = [chat("the same prompt", f"answer {i}") for i in range(4)]
    encoder.encode(rows, on_batch=lambda done, tokens: seen.append((done, tokens)))
    prompt = len(encoder.tokenize(rows[0]).prompt_ids)
    assert seen == [(0, prompt), (4, sum(len(encoder.tokenize(row).ids) for row in rows))]


@pytest.mark.parametrize("packs", [True, False])
def test_answers_to_one_prompt_share_one_prompt_vector_however_passes_round(folders, monkeypatch, packs):
    encoder = loaded(folders["llama, no pad"], token_budget=1)
    encoder._engine._packs = packs
    forward, calls = encoder.model.forward, []

    def rounded(**inputs):
        calls.append(inputs["input_ids"].shape[0])
        output = forward(**inputs)
        output.last_hidden_state = output.last_hidden_state + 0.01 * len(calls)
        return output

    monkeypatch.setattr(encoder.model, "forward", rounded)
    features = encoder.encode([chat("hi", "yes"), chat("another", "yes"), chat("hi", "a much longer answer")])
    assert calls == [1, 1, 1]
    assert torch.equal(features.prompt_ND[0], features.prompt_ND[2])
    assert not torch.equal(features.prompt_ND[0], features.prompt_ND[1])


def test_truncation_is_flagged(folders):
    rows = [chat("x " * 200, "y"), chat("x", "y")]
    for name in ("llama, no pad", "bert"):
        features = loaded(folders[name], max_tokens=100, truncation="drop_oldest").encode(rows)
        assert features.truncated_N.tolist() == [True, False]
        assert features.tokens_N.tolist()[0] == 100
        with pytest.raises(BackboneError, match=r"conversation 0 .*above the limit of 100"):
            loaded(folders[name], max_tokens=100).encode(rows)


def test_the_limit_is_what_the_model_reads_by_default(folders):
    assert loaded(folders["bert"]).max_tokens == 128
    assert loaded(folders["llama, no pad"]).max_tokens == 512


def test_no_rows(folders):
    features = loaded(folders["bert"]).encode([])
    assert len(features) == 0
    assert features.prompt_ND.shape == (0, 32)


def test_dropout_is_off_and_the_mode_is_given_back(folders):
    encoder = loaded(folders["bert"])
    before = encoder.encode(ROWS)
    encoder.model.train()
    close(encoder.encode(ROWS), before, 1e-6)
    assert encoder.model.training
    assert not before.prompt_ND.requires_grad


def test_half_precision_gives_float32_features(folders):
    full, half = loaded(folders["llama, no pad"]), loaded(folders["llama, no pad"], dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    features = half.encode(ROWS)
    assert features.response_NAD.dtype == torch.float32
    difference = (features.response_NAD - full.encode(ROWS).response_NAD).abs().max()
    assert 1e-4 < difference < 0.5
    assert half.fingerprint != full.fingerprint


def test_what_is_written_down_has_the_type_of_the_weights(folders, tmp_path):
    # A model fitted on a GPU (auto: bfloat16) has to load on a CPU (auto: float32) with the same features.
    tokenizer = AutoTokenizer.from_pretrained(folders["llama, no pad"])
    model = AutoModel.from_pretrained(folders["llama, no pad"], dtype=torch.bfloat16)
    config = BackboneConfig(path=str(folders["llama, no pad"]), device="cpu")
    encoder = TransformerEncoder(model.eval(), tokenizer, config=config)
    again = load_encoder(BackboneConfig.model_validate(encoder.spec()))
    copy = load_encoder(encoder.save_backbone(tmp_path / "copy"))
    assert encoder.spec()["dtype"] == copy.spec()["dtype"] == "bfloat16"
    assert again.fingerprint == copy.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_copy_is_the_same_encoder(folders, name, tmp_path):
    encoder = loaded(folders[name], max_tokens=100, truncation="drop_oldest")
    config = encoder.save_backbone(tmp_path / "copy")
    copy = load_encoder(BackboneConfig.model_validate(config.model_dump()))
    assert copy.fingerprint == encoder.fingerprint
    assert copy.template_hash == encoder.template_hash
    close(copy.encode(ROWS), encoder.encode(ROWS), 1e-7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]
    with pytest.raises(BackboneError, match="already exists"):
        encoder.save_backbone(tmp_path / "copy")


def test_a_given_template_is_saved_with_the_backbone(folders, tmp_path):
    encoder = loaded(folders["llama, no pad"], template="plain")
    assert encoder.template_hash != loaded(folders["llama, no pad"]).template_hash
    copy = load_encoder(encoder.save_backbone(tmp_path / "copy"))
    assert copy.fingerprint == encoder.fingerprint
    jinja = tmp_path / "mine.jinja"
    jinja.write_text(encoder.tokenizer.chat_template)
    assert (
        loaded(folders["llama, no pad"], template=str(jinja)).fingerprint
        == loaded(folders["llama, no pad"]).fingerprint
    )


def test_the_fingerprint_names_what_changes_features(folders, tmp_path):
    plain = loaded(folders["llama, no pad"])
    prints = {plain.fingerprint}
    for settings in ({"max_tokens": 100}, {"truncation": "drop_oldest"}, {"template": "plain"}):
        prints.add(loaded(folders["llama, no pad"], **settings).fingerprint)
    assert len(prints) == 4
    assert loaded(folders["llama, no pad"], token_budget=7).fingerprint == plain.fingerprint


def test_a_model_in_memory_has_the_fingerprint_of_its_files_until_it_is_trained(folders):
    folder = folders["llama, no pad"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    encoder = TransformerEncoder(model, AutoTokenizer.from_pretrained(folder), config=BackboneConfig(path="in memory"))
    before = encoder.fingerprint
    assert before == loaded(folder).fingerprint
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.tensor([encoder.tokenize(ROWS[0]).ids])
    model(ids, labels=ids).loss.backward()
    optimiser.step()
    assert encoder.fingerprint != before


def test_loading_is_quiet(folders, capfd):
    loaded(folders["llama, no pad"])  # the checkpoint has an lm_head that the trunk has not
    assert capfd.readouterr() == ("", "")


def test_positions_behind_the_padding_are_the_limit(tmp_path):
    folder = tiny_encoder(tmp_path / "bert")
    config = RobertaConfig(
        vocab_size=197,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=10**30)
    settings = {"path": "in memory", "device": "cpu", "truncation": "drop_oldest"}
    encoder = TransformerEncoder(RobertaModel(config), tokenizer, config=BackboneConfig(**settings))
    assert encoder.max_tokens == 32
    features = encoder.encode([chat("a" * 40, "b" * 40), ROWS[0]])
    assert features.tokens_N[0] == 32
    assert features.truncated_N.tolist() == [True, False]
    with pytest.raises(BackboneError, match=r"max_tokens 33 is above the 32 positions .*set backbone.max_tokens to 32"):
        TransformerEncoder(RobertaModel(config), tokenizer, config=BackboneConfig(**settings, max_tokens=33))


CODE = """
from transformers import BertConfig, BertModel

class Config(BertConfig):
    model_type = "mine"

class Model(BertModel):
    config_class = Config
"""


def test_code_that_comes_with_the_model_is_part_of_its_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    prints = []
    for name, code in (("one", CODE), ("same", CODE), ("other", CODE + "# changed\n")):
        folder = tiny_encoder(tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        auto = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": auto}))
        (folder / "mine.py").write_text(code)
        prints.append(loaded(folder, kind="encoder", trust_remote_code=True).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_relative_path_is_remembered_from_the_root(folders, monkeypatch):
    folder = folders["llama, no pad"]
    monkeypatch.chdir(folder.parent)
    encoder = loaded(Path(folder.name))
    assert encoder.spec()["path"] == str(folder.resolve())
    assert encoder.config.path == str(folder.resolve())
