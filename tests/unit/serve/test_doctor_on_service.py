"""The doctor's dialects are this server's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facetrm.data.world.world import World
from facetrm.doctor import diagnosis
from facetrm.doctor.diagnosis import diagnose_server, renderer
from facetrm.doctor.server import PATHS, connect
from facetrm.hub.load import load_model
from facetrm.model.reward_model import RewardModel
from serving import Client, exact_toy, reward_server

GROUPS = [(pair.chosen, pair.rejected) for pair in World().preferences(6)]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with reward_server() as made:
        yield made


def test_the_doctor_finds_nothing_wrong_with_a_served_model(client: Client, tmp_path: Path) -> None:
    exact_toy().save(tmp_path / "model", backbone="copy")
    found = diagnose_server(
        client.url,
        GROUPS,
        against=str(tmp_path / "model"),
        timeout=60.0,
        key=None,
        threshold=0.05,
        device="cpu",
        allowed=[],
        settings={},
        trust_remote_code=False,
    )
    said = [finding.code for finding in found.findings if finding.code.startswith("server-")]
    assert said == [], found.to_dict()


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_the_local_copy_is_read_in_the_mode_of_the_server(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact_toy().save(tmp_path / "model", backbone="copy")
    modes = list[str]()

    def loaded(*given: Any, **options: Any) -> RewardModel:
        made = load_model(*given, **options)
        modes.append(made.encoder.mode)
        return made

    monkeypatch.setattr(diagnosis, "load_model", loaded)
    with reward_server(lambda: exact_toy(mode=mode)) as client:
        for url in (client.url, f"{client.url}/v1/rewards"):
            diagnose_server(url, GROUPS[:2], against=str(tmp_path / "model"), device="cpu")
    assert modes == [mode, mode]


@pytest.mark.parametrize("dialect", PATHS)
def test_every_dialect_gives_the_rewards_of_the_library(client: Client, dialect: str) -> None:
    model = exact_toy()
    talks = [talk for group in GROUPS for talk in group]
    server = connect(client.url + PATHS[dialect], talks[0], render=renderer(model.encoder))  # type: ignore[index]
    assert server.dialect == dialect
    rewards = [answer.reward for answer in server.ask_all(talks, at_once=4)]
    assert rewards == [score.reward for score in model.score(talks)]
