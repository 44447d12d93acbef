"""The list of settings that help texts print is that of the code: every name, its type, its default and its meaning."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from facetrm.backbone.config import BackboneConfig
from facetrm.core.config import Section
from facetrm.core.describe import SettingHelp, describe_settings, settings_text
from facetrm.label.settings import LabelConfig


class Inner(Section):
    """Inside.

    Attributes:
        steps: how many. Not more than needed.
    """

    steps: int = 3


class Outer(Section):
    """Outside.

    Attributes:
        name: what it is called; ``x`` will do.
        low: the least, in
            seconds. high: the most.
        inner: see there.
    """

    name: str = Field(min_length=1)
    low: float | None = None
    high: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ("p", "q")
    on: bool = False
    inner: Inner = Inner()


def test_settings_are_listed_with_type_default_and_first_sentence() -> None:
    assert describe_settings(Outer) == [
        SettingHelp("name", "text", "required", "what it is called; x will do"),
        SettingHelp("low", "number or null", "null", "the least, in seconds"),
        SettingHelp("high", "a | b", "a", "the most"),
        SettingHelp("names", "list of text", "['p', 'q']", ""),
        SettingHelp("on", "true or false", "false", ""),
        SettingHelp("inner.steps", "integer", "3", "how many"),
    ]
    assert [row.name for row in describe_settings(Outer, skip=("name", "inner.steps"))] == [
        "low",
        "high",
        "names",
        "on",
    ]
    lines = settings_text(Outer, width=40).splitlines()
    assert lines[0] == "name         text: what it is called; x"
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("section", [LabelConfig, BackboneConfig])
def test_every_setting_of_label_and_encode_says_what_it_is(section: type[Section]) -> None:
    rows = describe_settings(section)
    assert {row.name for row in rows} == set(section.model_fields)
    assert [row.name for row in rows if not row.about] == []
