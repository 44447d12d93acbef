"""A turn whose text the chat template does not render is an error, and a finding without data."""

from __future__ import annotations

from pathlib import Path

import pytest

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.text.chat import DecoderChat, Limit
from facetrm.backbone.text.rendered import cuts_earlier_thoughts, turns_left_out, unrendered_turns
from facetrm.backbone.text.truncate import TemplateTurns
from facetrm.backbone.transformer import load_encoder
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation
from fakes import CHATML, chat, tiny_decoder, tiny_tokenizer

OPEN, CLOSE = "<|im_start|>{{ m.role }}\n", "<|im_end|>\n{% endfor %}"
EACH = "{% for m in messages %}" + OPEN + "{{ TEXT }}" + CLOSE
PARTS = "{% for m in messages %}" + OPEN + "{% for p in m.content %}{{ p.text }}{% endfor %}" + CLOSE
CUT = "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content)"
CUT_EARLIER = CUT.replace("m.role == 'assistant'", "m.role == 'assistant' and not loop.last")
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}" + OPEN + "{{ m.content }}" + CLOSE
LAST_TWO = "{% for m in messages[-2:] %}" + OPEN + "{{ m.content }}" + CLOSE
FOLDED_LATE = (
    "{% set told = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}" + OPEN
    + "{{ told if m.role == 'user' and loop.revindex0 <= 1 }}\n{{ m.content | trim }}" + CLOSE
)  # fmt: skip
ASKED = chat("Boil an egg?", "In hot Water, for eight minutes.")
THOUGHT = chat("2+2 ?", "<think>two and two make four</think>4")
LONG = chat("Why so?", "Because it is so. " * 30)
TOLD = chat("Hi", "Hello", "2+2", "4", system="Be Brief")
SHORT = chat("hi", "ok", system="user")  # stands in every header by chance


def each(expression: str) -> str:
    return EACH.replace("TEXT", expression)


# template, a conversation that it cuts, and what the error says
LOSSY: dict[str, tuple[str, Conversation, str]] = {
    "content as parts": (PARTS, ASKED, r"turn 1 of 2 \(user\) its text 'Boil an egg\?'"),
    "reasoning of the last answer": (each(CUT), THOUGHT, r"turn 2 of 2 \(assistant\) the reasoning '<think>two and"),
    "an answer that is all reasoning": (each(CUT), chat("2+2 ?", "<think>four</think>"), r"turn 2 of 2"),
    "no system turn": (NO_SYSTEM, TOLD, r"turn 1 of 5 \(system\) its text 'Be Brief'"),
    "no system turn, whose text is in a header": (NO_SYSTEM, SHORT, r"turn 1 of 3 \(system\) its text 'user'"),
    "the last two turns alone": (LAST_TWO, TOLD, r"turn 1 of 5 \(system\)"),
    "lower case": (each("m.content | lower"), ASKED, r"turn 1 of 2 \(user\) the upper and lower case of 'Boil"),
    "upper case": (each("m.content | upper"), TOLD, r"turn 1 of 5 \(system\) the upper and lower case"),
    "a limit of characters": (each("m.content[:400]"), LONG, r"turn 2 of 2 \(assistant\) the part from 'Because"),
    "the beginning": (each("m.content[9:]"), LONG, r"turn 1 of 2 \(user\)"),
    "the first line": (each("m.content.split('\n')[0]"), chat("a\nb c", "d"), r"turn 1 of 2 \(user\) its text"),
    "words replaced": (each("m.content | replace('egg', 'x')"), ASKED, r"turn 1 of 2"),
}  # fmt: skip


def reader(template: str, *, tokens: int = 4096) -> DecoderChat:
    return DecoderChat(tiny_tokenizer("chatml"), template=template, limit=Limit(tokens), date="26 Jul 2024")


@pytest.mark.parametrize("case", LOSSY)
def test_a_turn_that_is_not_rendered_is_an_error_that_names_it(case: str):
    template, conversation, said = LOSSY[case]
    with pytest.raises(BackboneError, match=rf"conversation 7 .*leaves out of {said}.*backbone\.template") as raised:
        reader(template).tokenize(conversation, row=7)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("template", "conversation"),
    [
        (CHATML, TOLD),
        (CHATML, THOUGHT),
        (each("m.content | trim"), chat("  Hi\n", "\n So it is.  ")),
        (each(CUT), ASKED),
        (FOLDED_LATE, TOLD),
        (each(CUT_EARLIER), chat("a", "<think>x</think>b", "c", "<think>y</think>d")),
    ],
)
def test_what_is_rendered_whole_is_read(template: str, conversation: Conversation):
    assert reader(template).tokenize(conversation, row=0).length > 0


def test_reasoning_of_an_earlier_answer_may_be_cut_and_it_is_said(capsys: pytest.CaptureFixture[str]):
    reader(each(CUT_EARLIER))
    assert "leaves out the reasoning of earlier answers" in capsys.readouterr().err
    reader(CHATML)
    assert "reasoning" not in capsys.readouterr().err


def test_an_earlier_answer_must_be_there_beside_its_reasoning():
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "<think>x</think>Bc"), ("user", "d"))]
    assert not turns_left_out(turns, "a Bc d")
    (one,) = turns_left_out(turns, "a d")
    assert (one.turn, one.role) == (1, "assistant")


@pytest.mark.parametrize(
    ("template", "roles"),
    [
        (PARTS, {"system", "user", "assistant"}),
        (each(CUT), {"assistant"}),
        (NO_SYSTEM, {"system"}),
        (each("m.content | lower"), {"system", "user", "assistant"}),
        (CHATML, set()),
        (each(CUT_EARLIER), set()),
    ],
)
def test_probes_find_without_data_what_a_template_leaves_out(template: str, roles: set[str]):
    tokenizer = tiny_tokenizer("chatml")

    def render(turns: TemplateTurns) -> str:
        return str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))

    assert {one.role for one in unrendered_turns(render)} == roles
    assert cuts_earlier_thoughts(render) == (template == each(CUT_EARLIER))


def test_the_encoder_tells_what_its_template_leaves_out(tmp_path: Path):
    tiny_decoder(tmp_path / "model", style="chatml")
    (tmp_path / "cut.jinja").write_text(each(CUT))
    config = BackboneConfig(path=str(tmp_path / "model"))
    cut = load_encoder(config.model_copy(update={"template": str(tmp_path / "cut.jinja")}))
    (one,) = cut.unrendered_turns()
    assert (one.role, one.missing) == ("assistant", "the reasoning '<think>\\nFrance, I Suppose.\\n</think>'")
    assert not load_encoder(config).unrendered_turns()
