"""What was counted is tokenised once; what is only read is not kept; an error names its own row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from facetrm import conversation
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.text.chat import DecoderChat, Tokenized
from facetrm.backbone.text.counted import CountedTokens
from facetrm.backbone.transformer import load_encoder
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation, Message
from fakes import tiny_decoder


class Counting:
    """A chat format that counts what it reads, and refuses an answer of one word."""

    template_hash = "counting"

    def __init__(self) -> None:
        self.read = list[str]()

    def tokenize(self, messages: Sequence[Message], *, row: int) -> Tokenized:
        words = messages[-1].content.split()
        self.read.append(messages[-1].content)
        if len(words) == 1:
            raise BackboneError("one word", fix="write more").at(f"conversation {row}", row=row)
        return Tokenized(tuple(range(len(words))), 0, 0, len(words))


def talk(answer: str) -> Conversation:
    return conversation([{"role": "user", "content": "well ?"}, {"role": "assistant", "content": answer}])


def test_what_was_counted_is_not_tokenized_again_when_it_is_read() -> None:
    chat = Counting()
    tokens = CountedTokens(chat, most=2)
    assert tokens.count(talk("a b"), 0) == tokens.read(talk("a b"), 5)
    assert chat.read == ["a b"]
    tokens.read(talk("a b"), 0)  # once read it is kept no longer
    assert chat.read == ["a b", "a b"]


def test_what_is_only_read_is_not_kept_and_of_the_counted_the_oldest_goes() -> None:
    chat = Counting()
    tokens = CountedTokens(chat, most=2)
    for _ in range(2):
        tokens.read(talk("a b"), 0)
    assert chat.read == ["a b", "a b"]
    for text in ("1 1", "2 2", "3 3"):
        tokens.count(talk(text), 0)
    chat.read.clear()
    for text in ("3 3", "2 2", "1 1"):
        tokens.read(talk(text), 0)
    assert chat.read == ["1 1"]


def test_an_error_names_its_own_row() -> None:
    tokens = CountedTokens(Counting())
    for ask, row in ((tokens.count, 0), (tokens.count, 2), (tokens.read, 3)):
        with pytest.raises(BackboneError) as caught:
            ask(talk("alone"), row)
        assert caught.value.row == row
        assert caught.value.place == f"conversation {row}"


def test_an_encoder_does_not_tokenize_again_what_a_server_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "m")), device="cpu"))
    plain, read = DecoderChat.tokenize, list[str]()

    def counted(self: DecoderChat, messages: Sequence[Message], *, row: int) -> Tokenized:
        read.append(messages[-1].content)
        return plain(self, messages, row=row)

    monkeypatch.setattr(DecoderChat, "tokenize", counted)
    encoder.tokenize(talk("a b"))
    features = encoder.encode([talk("a b"), talk("c d")])
    assert sorted(read) == ["a b", "c d"]
    assert torch.equal(features.response_NAD, encoder.encode([talk("a b"), talk("c d")]).response_NAD)
