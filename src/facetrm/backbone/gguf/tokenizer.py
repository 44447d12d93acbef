"""Builds the tokenizer that a GGUF file describes, and checks that it reads text as the file's vocabulary demands.

A byte-level vocabulary (``tokenizer.ggml.model`` is ``gpt2``) is built here, because the file holds all of it: tokens,
merges, the kind of each token, and the name of the cuts. Transformers converts the other kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from facetrm.backbone.gguf.header import Header, alone
from facetrm.backbone.gguf.splits import SPLITS, UNKNOWN_CUT, Splits
from facetrm.core.errors import short

_UNKNOWN_TOKEN, _CONTROL, _USER = 2, 3, 4  # the kinds of llama.cpp: unknown, control, user-defined
_NAMED: Final = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_CLOSING: Final = ("eot", "eom")  # written by templates, whatever kind the file gives them
_PRE: Final = "tokenizer.ggml.pre"
_OTHERS: Final = "llama, t5, gemma4"  # what Transformers converts


def pre_tokenizer_problem(header: Header) -> str | None:
    """Return what is doubtful about the cuts of the file's vocabulary, in one sentence; None if nothing is.

    Args:
        header: header of the file.
    """
    name = header.text(_PRE)
    if header.text("tokenizer.ggml.model") != "gpt2" or name in SPLITS:
        return None
    said = f"the pre-tokenizer {short(name)}, for which there is no recipe" if name else "no pre-tokenizer"
    return f"the GGUF file names {said}: words are cut as GPT-2 does, which may give other tokens than the model learnt"


def read_tokenizer(header: Header) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a GGUF file, with its chat template.

    Args:
        header: header of the file.

    Raises:
        BackboneError: The file has no vocabulary, or one that cannot be built.
    """
    model, tokens = header.text("tokenizer.ggml.model"), header.texts("tokenizer.ggml.tokens")
    if model is None or not tokens:
        raise header.wrong("the file has no vocabulary", fix="give a GGUF file that holds its tokenizer")
    splits = SPLITS.get(header.text(_PRE) or "", UNKNOWN_CUT)
    if model == "gpt2":
        tokenizer, bos = _byte_level(header, tokens, splits), splits.bos
    else:
        tokenizer, bos = _converted(header, model), model == "llama"
    kinds = _kinds(header, tokens)
    tokenizer.add_special_tokens(
        [AddedToken(tokens[i], normalized=False, special=True) for i in _special(header, kinds, tokens)]
    )
    named: dict[str, Any] = {name: tokens[i] for name, i in _ids(header, tokens).items()}
    bos = header.flag("tokenizer.ggml.add_bos_token", default=bos and "bos_token" in named)
    eos = header.flag("tokenizer.ggml.add_eos_token", default=False)
    for flag, name in ((bos, "bos_token"), (eos, "eos_token")):
        if flag and name not in named:
            raise header.wrong(f"'tokenizer.ggml.add_{name}' is true, but the file names no such token")
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        add_bos_token=bos,
        add_eos_token=eos,
        padding_side="right",
        **{"bos_token": None, "eos_token": None, **named},
    )
    made.chat_template = header.text("tokenizer.chat_template")
    _check(made, header, tokens, exact=model == "gpt2")
    return made


def _byte_level(header: Header, tokens: list[str], splits: Splits) -> Tokenizer:
    merges = header.texts("tokenizer.ggml.merges")
    if merges is None:
        raise header.wrong("a byte-level vocabulary without merges", fix="give a file that holds its whole tokenizer")
    pairs = [(merge[:at], merge[at + 1 :]) for merge in merges if (at := merge.find(" ", 1)) > 0]
    if len(pairs) != len(merges):
        raise header.wrong("a merge is not two tokens")
    try:
        vocabulary = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=splits.whole))
    except Exception as exc:  # the library raises Exception itself
        raise header.wrong(f"its vocabulary and its merges do not fit ({str(exc)[:200]})") from None
    tokenizer.pre_tokenizer, tokenizer.decoder = splits.pre_tokenizer(), decoders.ByteLevel()
    if (normalizer := splits.normalizer()) is not None:
        tokenizer.normalizer = normalizer
    kinds = _kinds(header, tokens)
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds, strict=True) if kind == _USER]
    )
    return tokenizer


def _converted(header: Header, model: str) -> Tokenizer:
    try:
        with alone(header.path) as (folder, name):
            made = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    except Exception as exc:  # the converters raise anything
        reason = " ".join(str(exc).split())[:200]
        raise header.wrong(
            f"its vocabulary of kind {short(model)} cannot be converted ({type(exc).__name__}: {reason})",
            fix=f"give a file with a vocabulary of kind gpt2 (byte-level), or of {_OTHERS}",
        ) from None
    return cast(Tokenizer, made.backend_tokenizer)


def _kinds(header: Header, tokens: list[str]) -> list[int]:
    kinds = header.settings.get("tokenizer.ggml.token_type")
    if kinds is None:
        return [1] * len(tokens)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        held = len(kinds) if isinstance(kinds, list) else short(kinds)
        raise header.wrong(f"'tokenizer.ggml.token_type' has {held} entries for {len(tokens)} tokens")
    return kinds


def _ids(header: Header, tokens: list[str]) -> Mapping[str, int]:
    """Return the ids of the tokens that the file names, by their name in Transformers."""
    found = {}
    for name, key in _NAMED.items():
        i = header.settings.get(f"tokenizer.ggml.{key}_token_id")
        if i is None:
            continue
        if not isinstance(i, int) or not 0 <= i < len(tokens):
            raise header.wrong(f"'tokenizer.ggml.{key}_token_id' is {short(i)}, but there are {len(tokens)} tokens")
        found[name] = i
    return found


def _special(header: Header, kinds: list[int], tokens: list[str]) -> list[int]:
    """Return the ids of the tokens that no text may produce, in order."""
    found = {i for i, kind in enumerate(kinds) if kind in (_UNKNOWN_TOKEN, _CONTROL)}
    found |= {i for name, i in _ids(header, tokens).items() if name != "unk_token"}
    closing = (header.settings.get(f"tokenizer.ggml.{key}_token_id") for key in _CLOSING)
    found |= {i for i in closing if isinstance(i, int) and 0 <= i < len(tokens)}
    return sorted(i for i in found if tokens[i])


def _check(tokenizer: PreTrainedTokenizerBase, header: Header, tokens: list[str], *, exact: bool) -> None:
    """Check the ids of all tokens, and that special tokens are one token each.

    Args:
        tokenizer: tokenizer that was made.
        header: header of the file.
        tokens: vocabulary of the file.
        exact: whether every token must also be spelt as in the file.
    """
    fix = "give a file with a byte-level vocabulary, or the model as a folder of safetensors"
    vocabulary = tokenizer.get_vocab()
    last = {token: i for i, token in enumerate(tokens)}
    moved = next((token for token, i in last.items() if vocabulary.get(token, None if exact else i) != i), None)
    if moved is not None:
        raise header.wrong(f"the converted tokenizer gives {short(moved)} another id than the file", fix=fix)
    added = next((token for token, i in vocabulary.items() if i >= len(tokens)), None)
    if added is not None:
        raise header.wrong(f"the converted tokenizer has the token {short(added)}, which the file has not", fix=fix)
    for i, token in _controls(header, tokens):
        read = tokenizer(token, add_special_tokens=False)["input_ids"]
        if read != [i]:
            raise header.wrong(f"the special token {short(token)} reads as {read[:6]}, not as {i}", fix=fix)


def _controls(header: Header, tokens: list[str]) -> Iterator[tuple[int, str]]:
    last = {token: i for i, token in enumerate(tokens)}
    for i in _special(header, _kinds(header, tokens), tokens):
        if last[tokens[i]] == i:
            yield i, tokens[i]
