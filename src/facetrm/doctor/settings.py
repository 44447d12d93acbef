"""Check the settings that make scores wrong: outputs, activation, padding, vocabulary, positions, remote code."""

from __future__ import annotations

from collections.abc import Iterator

from facetrm.core.errors import ModelError, short
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.findings import Finding

_UNSET = 10**9  # tokenizers without a limit state a huge number


def check_settings(artefact: Artefact) -> Iterator[Finding]:
    """Yield findings about the settings of a third-party model.

    Args:
        artefact: the files of the model.
    """
    if artefact.kind == "classifier":
        yield from _outputs(artefact)
        if artefact.expected is None or artefact.expected.reads_last:  # other classes pool the first token
            yield from _padding(artefact)
    if artefact.config.get("auto_map") and artefact.kind != "gated":
        needed = artefact.expected is None
        yield Finding(
            "remote-code",
            "warning",
            "the model needs Python code from its folder" if needed else "the folder comes with Python code",
            f"auto_map: {short(artefact.config['auto_map'])}",
            "the architecture is not part of Transformers"
            if needed
            else "Transformers can load the model without that code; with trust_remote_code=True scores may differ",
            "read that code before you trust it; prefer a class of Transformers if one fits",
        )
    yield from _vocabulary(artefact)
    yield from _length(artefact)


def _outputs(artefact: Artefact) -> Iterator[Finding]:
    config = artefact.config
    named = config.get("id2label")
    labels = config.get("num_labels") or (len(named) if isinstance(named, dict) and named else None)
    if labels != 1:
        stated = "states no number of labels, so Transformers uses 2" if labels is None else f"has {labels} labels"
        yield Finding(
            "num-labels",
            "error",
            f"the classifier {stated}",
            f"id2label: {config.get('id2label')!r}",
            "it was saved or converted with the default number of labels, or is not a scalar reward model",
            "write id2label {'0': 'LABEL_0'} if the head has one row; otherwise use a model with one output",
        )
    elif config.get("problem_type") != "regression":
        yield Finding(
            "activation",
            "warning",
            f"problem_type is {config.get('problem_type')!r}, not 'regression'",
            "vLLM's /classify then returns sigmoid(reward): the order is kept, but margins shrink and saturate",
            "the field is empty by default",
            'write "problem_type": "regression" into config.json, or send use_activation: false with each request',
        )


def _padding(artefact: Artefact) -> Iterator[Finding]:
    config, tokenizer = artefact.config, artefact.tokenizer
    pad, end = config.get("pad_token_id"), config.get("eos_token_id")
    ends = {token for token in (end if isinstance(end, list) else [end]) if isinstance(token, int)}
    own = None if tokenizer is None else tokenizer.pad_token_id
    ends |= set() if tokenizer is None or tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    fix = "add a token that is used only for padding, and write its id into config.json and tokenizer_config.json"
    if pad is None:
        yield Finding(
            "pad-missing",
            "warning",
            "config.json has no pad_token_id",
            f"the tokenizer pads with {own!r}; Transformers' head then raises an error on every batch of several rows, "
            "and reads the padding if a single row is padded",
            "the base model had no padding token, and none was added",
            fix,
        )
    elif own is not None and own != pad:
        yield Finding(
            "pad-mismatch",
            "error",
            f"the tokenizer pads with {own}, config.json says {pad}",
            f"Transformers' head reads the last token that is not {pad}: in a batch, that is a padding token {own}",
            "the tokenizer or the model's configuration was changed after training",
            f"write the same id into both: {fix}",
        )
    if isinstance(pad, int) and pad in ends:
        closes = _closes_turns(artefact, pad)
        yield Finding(
            "pad-is-eos",
            "warning" if closes else "note",
            f"pad_token_id {pad} is the end token",
            f"rendered conversations end with {pad}, and Transformers' head reads the last token that is not {pad}, "
            "which is the one before it; engines that read the last token (vLLM, facetrm) read another token"
            if closes
            else "the chat template closes turns with another token, so rendered conversations are scored correctly, "
            "but text that ends with the end token is not",
            "pad was set to eos for training because the base model had no padding token",
            fix + "; train with it, or score only with code that reads the same token as in training",
        )


def _closes_turns(artefact: Artefact, pad: int) -> bool:
    """Return whether a rendered conversation ends with ``pad``; True if that cannot be tested."""
    tokenizer = artefact.tokenizer
    try:
        text = artefact.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    except ModelError:
        return True
    if tokenizer is None:
        return True
    return bool(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][-1:] == [pad])


def _vocabulary(artefact: Artefact) -> Iterator[Finding]:
    tokenizer, expected = artefact.tokenizer, artefact.expected
    if tokenizer is None or expected is None:
        return
    stated = expected.trunk.get(expected.embedding, (0,))[0]
    names = (f"{expected.prefix}{expected.embedding}", expected.embedding)
    shapes = [artefact.tensors[name].shape for name in names if name in artefact.tensors]
    held = next((shape[0] for shape in shapes if shape), stated)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= min(held, stated) or held != stated:
        yield Finding(
            "vocabulary",
            "error",
            f"the tokenizer has ids up to {highest}, the embedding has {held} rows, config.json says {stated}",
            f"{max(0, highest + 1 - min(held, stated))} of {len(tokenizer)} tokens have no row",
            "tokens were added without resizing the embedding, or the tokenizer belongs to another model",
            "save the tokenizer of training into the folder, or resize the embedding and train again",
        )


def _length(artefact: Artefact) -> Iterator[Finding]:
    positions = artefact.config.get("max_position_embeddings") or artefact.config.get("n_positions")
    limit = None if artefact.tokenizer is None else artefact.tokenizer.model_max_length
    if isinstance(positions, int) and isinstance(limit, int | float) and positions < limit < _UNSET:
        yield Finding(
            "max-length",
            "warning",
            f"model_max_length is {limit}, the model has {positions} positions",
            f"texts of {positions} to {limit} tokens are not truncated, but exceed the positions of the model",
            "tokenizer_config.json was copied from a model with more positions",
            f'write "model_max_length": {positions} into tokenizer_config.json',
        )
