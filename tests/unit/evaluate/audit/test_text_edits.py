"""Edits of a text do what they say, leave the words that they should, and depend on nothing but text and seed."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from audit_samples import random_pairs
from facetrm.evaluate.audit.edits import EDITS, add_markdown, comply, cut_end, flatter, pad, refuse, respace
from facetrm.evaluate.audit.edits import shuffle_sentences as shuffle
from facetrm.evaluate.audit.features import bold, bullets, fences, headers, markdown, refusal, sycophancy

TEXTS = [answer.content for pair in random_pairs(40, seed=5) for answer in pair.responses]


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize("text", TEXTS)
def test_edits_keep_what_they_promise(text: str) -> None:
    padded = pad(text)
    assert padded is not None
    assert padded.startswith(text)
    assert len(padded) / len(text) >= 1.5
    assert len(padded) < 1.5 * len(text) + 60
    marked, mixed, spaced, shorter = add_markdown(text), shuffle(text), respace(text), cut_end(text)
    assert marked is not None
    assert words(marked) == words(text)
    assert headers(marked) == 1
    assert bullets(marked) == bold(marked)
    assert mixed is None or (words(mixed) == words(text) and mixed != text)
    assert spaced is not None
    assert spaced.split() == text.split()
    assert len(spaced) == len(text)
    assert shorter is not None
    assert text.startswith(shorter)
    assert len(shorter.split()) == len(text.split()) - len(text.split()) // 3
    assert sycophancy(flatter(text) or "") >= 1
    assert refusal(refuse(text) or "") == 1


def test_edits_are_functions_of_text_and_seed() -> None:
    for name, edit in EDITS.items():
        assert [edit.change(text, 3) for text in TEXTS] == [edit.change(text, 3) for text in TEXTS], name
    assert [shuffle(text, 1) for text in TEXTS] != [shuffle(text, 2) for text in TEXTS]


def test_edits_are_left_out_where_they_do_not_apply() -> None:
    assert add_markdown("One sentence.") is None
    assert add_markdown("# A\n\nB. C.") is None
    assert shuffle("One. Two.") is None
    assert shuffle("Same. Same. Same.") is None
    assert cut_end("two words") is None
    assert respace("One sentence.") is None
    assert flatter("Great question! Yes.") is None
    assert comply("Yes.") is None
    assert refuse("I'm sorry, but I can't help with that.") is None
    assert not refusal(comply("I cannot help with that.") or "I cannot help")
    assert (pad("```\nx = 1\n```") or "").startswith("```\nx = 1\n```\n\n")


def test_features_count() -> None:
    text = "# Head\n\n- one **bold**\n2. two\n\n```\n# no\n```\n"
    assert (bullets(text), bold(text), fences(text)) == (2, 1, 1)
    assert markdown("plain text, 2 * 3 - 1.") == 0
    assert sycophancy("You\u2019re absolutely right. What a good question!") >= 2
    assert refusal("I\u2019m sorry, but I can\u2019t help.") == 1
    assert refusal("You can't lose.") == 0
