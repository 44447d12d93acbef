"""A model folder is whole whenever its writer is killed: the old model or the new one, and the next save tidies up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facetrm.core import folders
from facetrm.core.config import Section
from facetrm.core.errors import ModelError
from facetrm.core.fingerprint import fingerprint
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder
from killing import deaths
from reward_models import HIDDEN, QUESTIONS, mixture


class SeedPlace(Section):
    path: str


class SeedEncoder(HashEncoder):
    """A hash encoder whose backbone is a folder with a seed in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(HIDDEN, seed=int((path / "seed.txt").read_text(encoding="utf-8")))
        self.path = path

    @property
    def fingerprint(self) -> str:
        return fingerprint(super().spec())

    def spec(self) -> dict[str, object]:
        return {"path": str(self.path)}

    def save_backbone(self, folder: Path) -> SeedPlace:
        shutil.copytree(self.path, folder)
        return SeedPlace(path=str(folder))


def seeded(folder: Path, seed: int) -> SeedEncoder:
    folder.mkdir(exist_ok=True)
    (folder / "seed.txt").write_text(str(seed), encoding="utf-8")
    return SeedEncoder(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def load(folder: Path) -> RewardModel:
    return RewardModel.load(folder, load_encoder=lambda spec: SeedEncoder(Path(str(spec["path"]))))


@pytest.mark.parametrize("exchanging", [True, False], ids=["exchanged", "set aside"])
def test_a_save_over_a_model_leaves_the_old_or_the_new_one(
    exchanging: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = RewardModel(seeded(tmp_path / "one", 7), {"all": mixture()})
    new = RewardModel(seeded(tmp_path / "two", 8), {"all": mixture()})
    place, kept = tmp_path / "place" / "model", tmp_path / "kept"
    old.save(kept, backbone="copy")
    (kept / "README.md").write_text("a card", encoding="utf-8")
    new.save(tmp_path / "fresh", backbone="copy")
    before, after = contents(kept), contents(tmp_path / "fresh") | {"README.md": b"a card"}
    if not exchanging:
        monkeypatch.setattr(folders, "exchange", lambda one, other: False)

    def start() -> None:
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(kept, place)

    seen = []
    for _ in deaths(lambda: new.save(place, backbone="copy"), start=start):
        found = load(place).hash
        assert contents(place) == (before if found == old.hash else after)
        seen.append(found)
        new.save(place, backbone="copy")
        assert contents(place) == after
        assert [path.name for path in place.parent.iterdir()] == ["model"]
    assert set(seen) == {old.hash, new.hash}
    assert len(seen) > 20
    assert load(place).score(QUESTIONS) == new.score(QUESTIONS)


def test_a_first_save_leaves_nothing_or_the_model(tmp_path: Path) -> None:
    model = RewardModel(seeded(tmp_path / "one", 7), {"all": mixture()})
    place = tmp_path / "place" / "model"
    model.save(tmp_path / "fresh", backbone="copy")
    for _ in deaths(lambda: model.save(place, backbone="copy"), start=lambda: shutil.rmtree(place, ignore_errors=True)):
        if place.exists():
            assert contents(place) == contents(tmp_path / "fresh")
        model.save(place, backbone="copy")
        assert [path.name for path in place.parent.iterdir()] == ["model"]


def test_a_model_saved_over_itself_keeps_its_backbone(tmp_path: Path) -> None:
    """Its encoder reads from the very folder that is replaced."""
    model = RewardModel(seeded(tmp_path / "one", 7), {"all": mixture()})
    place, kept = tmp_path / "place" / "model", tmp_path / "kept"
    model.save(kept, backbone="copy")

    def start() -> None:
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(kept, place)

    def save_again() -> None:
        load(place).with_mixture(mixture(), provenance={"edited": True}).save(place, backbone="copy")

    for _ in deaths(save_again, start=start):
        assert load(place).score(QUESTIONS)[0].reward == model.score(QUESTIONS)[0].reward
    save_again()
    assert load(place).provenance["edited"] is True
    assert (place / "backbone" / "seed.txt").read_text(encoding="utf-8") == "7"


def test_what_an_earlier_release_left_half_written_is_no_obstacle(tmp_path: Path) -> None:
    place = tmp_path / "model"
    (place / ".backbone.new.k3x9_a1b.tmp").mkdir(parents=True)
    (place / ".backbone.new.k3x9_a1b.tmp" / "seed.txt").write_text("half", encoding="utf-8")
    model = RewardModel(seeded(tmp_path / "one", 7), {"all": mixture()})
    model.save(place, backbone="copy")
    assert load(place).hash == model.hash
    assert not any(path.name.startswith(".") for path in place.iterdir())


REFUSED: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: place.write_text("mine", encoding="utf-8"),
    "another folder": lambda place: (place.mkdir(), (place / "thesis.txt").write_text("mine", encoding="utf-8")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_things_are_not_replaced(name: str, tmp_path: Path) -> None:
    place = tmp_path / "model"
    REFUSED[name](place)
    with pytest.raises(ModelError, match="is not a model folder"):
        RewardModel(seeded(tmp_path / "one", 7), {"all": mixture()}).save(place)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk", target_is_directory=True)
    model = RewardModel(seeded(tmp_path / "one", 7), {"all": mixture()})
    for _ in range(2):
        model.save(tmp_path / "model", backbone="copy")
        assert (tmp_path / "model").is_symlink()
        assert load(tmp_path / "model").hash == model.hash
