from __future__ import annotations

import pytest

from facetrm.serve import ServeConfig, served_name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("desk", "desk"),
        ("runs/quickstart/", "quickstart"),
        ("runs/quickstart/model", "quickstart"),
        ("./model", "model"),
        ("hf://owner/rm", "rm"),
        (".", "model"),
    ],
)
def test_a_model_is_named_after_its_folder_or_run(folder: str, name: str) -> None:
    assert served_name(folder, ServeConfig()) == name
    assert served_name(folder, ServeConfig(name="other")) == "other"
