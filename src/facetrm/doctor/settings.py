"""What a configuration says that makes scores wrong: outputs, activation, padding, vocabulary, positions, code."""

from __future__ import annotations

from collections.abc import Iterator

from facetrm.core.errors import ModelError, short
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.findings import Finding

_UNSET = 10**9  # tokenizers write a huge number where they have no limit


def check_settings(artefact: Artefact) -> Iterator[Finding]:
    """Yield what is wrong with the settings of a foreign folder.

    Args:
        artefact: its files.
    """
    if artefact.kind == "classifier":
        yield from _outputs(artefact)
        if artefact.expected is None or artefact.expected.reads_last:  # others pool the first token, whatever pads
            yield from _padding(artefact)
    if artefact.config.get("auto_map") and artefact.kind != "gated":
        needed = artefact.expected is None
        yield Finding(
            "remote-code",
            "warning",
            "the folder needs code of its own" if needed else "the folder names code of its own",
            f"auto_map: {short(artefact.config['auto_map'])}",
            "the architecture is none of Transformers'"
            if needed
            else "Transformers builds the model without it; who trusts the folder runs it, and may get other scores",
            "read that code; a class of Transformers, where it fits, gives scores that outlive a release",
        )
    yield from _vocabulary(artefact)
    yield from _length(artefact)


def _outputs(artefact: Artefact) -> Iterator[Finding]:
    config = artefact.config
    named = config.get("id2label")
    labels = config.get("num_labels") or (len(named) if isinstance(named, dict) and named else None)
    if labels != 1:
        stated = "states no number of labels, and Transformers takes 2" if labels is None else f"has {labels} labels"
        yield Finding(
            "num-labels",
            "error",
            f"the classifier {stated}",
            f"id2label: {config.get('id2label')!r}",
            "it was saved or converted with the default number of labels, or is no scalar reward model",
            "write id2label {'0': 'LABEL_0'} where the head has one row; else train or take a head with one output",
        )
    elif config.get("problem_type") != "regression":
        yield Finding(
            "activation",
            "warning",
            f"problem_type is {config.get('problem_type')!r}, not 'regression'",
            "vLLM's /classify then gives sigmoid(reward): order kept, distances and saturated answers lost",
            "the field is empty by default",
            'write "problem_type": "regression" into config.json, or send use_activation: false with each request',
        )


def _padding(artefact: Artefact) -> Iterator[Finding]:
    config, tokenizer = artefact.config, artefact.tokenizer
    pad, end = config.get("pad_token_id"), config.get("eos_token_id")
    ends = {token for token in (end if isinstance(end, list) else [end]) if isinstance(token, int)}
    own = None if tokenizer is None else tokenizer.pad_token_id
    ends |= set() if tokenizer is None or tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    fix = "add a token that is used for nothing else, and write its id into config.json and tokenizer_config.json"
    if pad is None:
        yield Finding(
            "pad-missing",
            "warning",
            "config.json has no pad_token_id",
            f"the tokenizer pads with {own!r}; Transformers' head then refuses every batch of more than one row, and "
            "reads padding as the last token where a caller pads one row",
            "the base model had no padding token, and none was added",
            fix,
        )
    elif own is not None and own != pad:
        yield Finding(
            "pad-mismatch",
            "error",
            f"the tokenizer pads with {own}, config.json says {pad}",
            f"Transformers' head reads the last token that is not {pad}: in a batch, that is a padding token {own}",
            "the tokenizer was changed after the model was trained, or the other way round",
            f"write the same id into both: {fix}",
        )
    if isinstance(pad, int) and pad in ends:
        closes = _closes_turns(artefact, pad)
        yield Finding(
            "pad-is-eos",
            "warning" if closes else "note",
            f"pad_token_id {pad} is the end token",
            f"Transformers' head reads the last token that is not {pad}: the one before the end, where a rendered "
            "conversation ends with it; engines that read the last token (vLLM, this one) read another place"
            if closes
            else "the chat template closes turns with another token, so rendered conversations are read rightly; text "
            "that is closed with the end token is not",
            "training set pad = eos because the base model had no padding token",
            fix + "; train with it, or score only where the same place is read as in training",
        )


def _closes_turns(artefact: Artefact, pad: int) -> bool:
    """Return whether a rendered conversation ends with ``pad``; True where nothing tells."""
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
            f"the tokenizer makes ids up to {highest}, the embedding has {held} rows, config.json says {stated}",
            f"{max(0, highest + 1 - min(held, stated))} of {len(tokenizer)} tokens have no row",
            "tokens were added without resizing the model, or the tokenizer is another model's",
            "save the tokenizer that the model was trained with into its folder, or resize the embedding and train",
        )


def _length(artefact: Artefact) -> Iterator[Finding]:
    positions = artefact.config.get("max_position_embeddings") or artefact.config.get("n_positions")
    limit = None if artefact.tokenizer is None else artefact.tokenizer.model_max_length
    if isinstance(positions, int) and isinstance(limit, int | float) and positions < limit < _UNSET:
        yield Finding(
            "max-length",
            "warning",
            f"model_max_length is {limit}, the model has {positions} positions",
            f"texts of {positions} to {limit} tokens are not cut, and are read beyond what the model learned",
            "tokenizer_config.json was copied from a model with more positions",
            f'write "model_max_length": {positions} into tokenizer_config.json',
        )
