"""The pairs of a run to look at: the most certain errors and the nearest ties, with what decided them."""

from __future__ import annotations

import numpy as np
import pytest

from facetrm.data.records import Message, Preference
from facetrm.data.world import World
from facetrm.explain.ask import explain_pair
from facetrm.recipes.notable import ERRORS, TIES, notable_pairs
from facetrm.recipes.toy import toy_model


def test_errors_by_certainty_ties_by_nearness_and_pairs_that_read_the_same_are_neither() -> None:
    model, pairs = toy_model(), list(World().preferences(60))
    rewards = [[model.score([c])[0].reward for c in (p.chosen, p.rejected)] for p in pairs]
    margin_N = np.array([a - b for a, b in rewards])
    same = [int(np.argmin(margin_N)), int(np.argmin(np.abs(margin_N)))]
    found = notable_pairs(model, pairs, margin_N, used=["all"] * len(pairs), same=same)
    left = [n for n in range(len(pairs)) if n not in same]
    wrong = sorted((n for n in left if margin_N[n] < 0), key=lambda n: margin_N[n])
    assert found.wrong == len(wrong) > 3
    assert [row.margin for row in found.errors] == [margin_N[n] for n in wrong[:ERRORS]]
    nearest = sorted(left, key=lambda n: abs(margin_N[n]))[:TIES]
    assert [row.margin for row in found.ties] == [margin_N[n] for n in nearest]
    explained = explain_pair(model, pairs[wrong[0]].chosen, pairs[wrong[0]].rejected)
    top = found.errors[0]
    assert top.probability == pytest.approx(explained.probability, abs=1e-5)
    assert [name for name, _ in top.largest] == [line.objective for line in explained.lines[:3]]
    assert [value for _, value in top.largest] == pytest.approx(
        [line.difference for line in explained.lines[:3]], abs=1e-5
    )
    assert top.chosen.startswith(pairs[wrong[0]].chosen[-1].content[:100])
    assert top.task == ""


def test_long_texts_are_shortened_and_several_turns_are_named() -> None:
    def said(role: str, text: str) -> Message:
        return Message(role=role, content=text)

    prompt = (said("system", "be kind"), said("user", "red " * 180))
    pair = Preference(prompt=prompt, responses=(said("assistant", "sky " * 180), said("assistant", "no")))
    (row,) = notable_pairs(toy_model(), [pair], np.array([-0.1]), used=["all"]).errors
    assert row.prompt.startswith("system: be kind\nuser: red")
    assert max(len(row.prompt), len(row.chosen)) < 600
    assert row.rejected == "no"
