from __future__ import annotations

import pytest

from facetrm.backbone.text.chat import DecoderChat, Limit
from facetrm.backbone.text.parsed import TextParser
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation
from fakes import STYLES, chat, tiny_tokenizer

TALKS = [
    chat("What is 2 + 2?", "Four."),
    chat("First line.\n\nSecond paragraph.", "One.\n\nTwo.\n"),
    chat("One?", "Yes.", "Two?", "No.", "Three?", "Perhaps, or\nnot."),
    chat("One?", "Yes.", "Two?", "No.", system="Be brief.\n\nAlways."),
    chat("assistant\nuser", "user\nassistant"),
]
DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    + STYLES["chatml"][3]
)


def made(style: str, *, pad: str | None = None, template: str | None = None) -> tuple[DecoderChat, TextParser]:
    tokenizer = tiny_tokenizer(style, pad=pad)
    form = DecoderChat(tokenizer, template=template or tokenizer.chat_template, limit=Limit(10_000), date="1 Jan 2024")

    def has_control(text: str) -> bool:
        return any(form.is_control(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"])

    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    return form, TextParser(form.render, has_control=has_control, before=[pad or "", bos], after=[pad or "", eos])


def rendered(form: DecoderChat, talk: Conversation) -> str:
    return form.render([{"role": turn.role, "content": turn.content} for turn in talk])


def same(one: Conversation, other: Conversation) -> bool:
    return [(turn.role, turn.content.strip()) for turn in one] == [(turn.role, turn.content.strip()) for turn in other]


@pytest.mark.parametrize("talk", TALKS, ids=range(len(TALKS)))
@pytest.mark.parametrize("style", ["llama3", "chatml", "gemma", "default"])
def test_a_rendered_conversation_is_read_back(style: str, talk: Conversation) -> None:
    form, parser = made("chatml", template=DEFAULT) if style == "default" else made(style)
    if style == "gemma" and talk[0].role == "system":
        pytest.skip("the template refuses system turns")
    text = rendered(form, talk)
    assert same(parser.parse(text), talk)
    # what other programs do to it: no end of turn, or padding; a second beginning, or none
    assert same(parser.parse(text.rstrip()), talk)
    eos, bos = STYLES["chatml" if style == "default" else style][1], STYLES.get(style, (None,))[0]
    assert same(parser.parse(text + eos), talk)
    assert same(parser.parse(text.rstrip().removesuffix(eos)), talk)
    if bos:
        assert same(parser.parse(text.removeprefix(bos)), talk)
        assert same(parser.parse(bos + text), talk)


def test_padding_is_not_part_of_a_conversation() -> None:
    form, parser = made("chatml", pad="<|im_end|>")
    text = rendered(form, TALKS[2])
    assert same(parser.parse("<|im_end|>" * 5 + text + "<|im_end|>" * 3), TALKS[2])


@pytest.mark.parametrize("style", ["llama3", "chatml", "gemma"])
def test_another_template_is_refused(style: str) -> None:
    _, parser = made(style)
    for other in {"llama3", "chatml", "gemma"} - {style}:
        with pytest.raises(BackboneError, match="not a conversation as the model's chat template renders it"):
            parser.parse(rendered(made(other)[0], TALKS[0]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<|im_start|>user\nhello<|im_end|>\n",
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n",
        "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n",
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>tool\nhi<|im_end|>\n",
        "hello <|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        "<|im_end|>" * 1000,
    ],
)
def test_what_is_not_a_conversation_is_refused(text: str) -> None:
    with pytest.raises(BackboneError):
        made("chatml")[1].parse(text)


def test_a_system_text_of_the_template_itself_is_no_turn() -> None:
    form, parser = made("chatml", template=DEFAULT)
    text = rendered(form, TALKS[0])
    assert "You are kind." in text
    assert [turn.role for turn in parser.parse(text)] == ["user", "assistant"]
    with pytest.raises(BackboneError):  # this template never leaves the system turn out
        parser.parse(rendered(made("chatml")[0], TALKS[0]))


def test_a_prompt_is_rendered_or_plain() -> None:
    _, parser = made("chatml")
    start = "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    for prompt in (start, "What is 2 + 2?"):
        for answer in ("Four.", "Four.<|im_end|>", " Four.<|im_end|>\n"):
            assert same(parser.converse(prompt, answer), TALKS[0])
    with pytest.raises(BackboneError, match="prompt: the text is not a conversation"):
        parser.converse("<|im_start|>user\nWhat is 2 + 2?", "Four.")
    with pytest.raises(BackboneError, match="the answer is blank"):
        parser.converse("What is 2 + 2?", " <|im_end|>")
    assert parser.answer_of("Four.<|im_end|>\n") == "Four."
