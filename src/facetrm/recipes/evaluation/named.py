"""From the text that names a system to the system: ``facetrm eval MODEL``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, final

from facetrm import baselines, hub
from facetrm.backbone.encoder import Encoder
from facetrm.backbone.text.chat import DecoderChat
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.baselines.named import scorer_hash
from facetrm.baselines.plain import PLAIN_SCORERS
from facetrm.core.config import parse_config
from facetrm.core.errors import BackboneError, ConfigError, DataError
from facetrm.core.web.key import read_server_key
from facetrm.data.records import Conversation
from facetrm.evaluate.benchmarks.result import BASELINES, SAME_AS
from facetrm.hub.shipped import check_spelling
from facetrm.label.settings import LabelConfig
from facetrm.model.door import holds_rival
from facetrm.model.output import Scorer
from facetrm.recipes.evaluation.score_files import read_score_file
from facetrm.recipes.evaluation.served import served_scorer
from facetrm.recipes.evaluation.systems import System

JUDGE: Final = "judge:"


@final
@dataclass(frozen=True)
class Loading:
    """How systems are loaded.

    Attributes:
        device: Device of a model: ``auto``, ``cpu`` or ``cuda``.
        mode: ``fast`` or ``exact``; None keeps the model's own mode.
        settings: Settings of the backbone.
        trust_remote_code: Whether a model's own Python code may run.
        timeout: Timeout of a request to a server, in seconds.
        key_env: Environment variable with the API key of a server or judge.
        seed: Seed of the random baseline.
        folder: Folder of the evaluation, where a judge keeps its answers.
        judge_mode: ``pairwise``, ``rating`` or ``ranking``.
        judge: Settings of the judge's client, as in ``facetrm label``.
    """

    device: str = "auto"
    mode: Any = None
    settings: Mapping[str, object] = field(default_factory=dict)
    trust_remote_code: bool = False
    timeout: float = 60.0
    key_env: str | None = None
    seed: int = 0
    folder: Path = Path()
    judge_mode: Literal["pairwise", "rating", "ranking"] = "pairwise"
    judge: Mapping[str, Any] = field(default_factory=dict)


def load_systems(asked: Sequence[str], loading: Loading) -> list[System]:
    """Return the systems that the texts name, with distinct names.

    Args:
        asked: Texts of the command line.
        loading: How they are loaded.

    Raises:
        ConfigError: The same system is asked for twice.
        ModelError: A model cannot be loaded.
        DataError: A file of scores is malformed.
    """
    systems: list[System] = []
    for text in asked:
        system = load_system(text, loading)
        if any(other.hash == system.hash for other in systems):
            raise ConfigError("the same system is asked for twice", place=text, fix="name it once")
        own = SAME_AS.get(system.name) if system.kind == "baseline" else None  # its column is that of the baseline
        taken = [*(name for name in BASELINES if name != own), *(other.name for other in systems)]
        name, n = system.name, 2
        while name in taken:
            name, n = f"{system.name}-{n}", n + 1
        systems.append(System(**{**vars(system), "name": name}))
    return systems


def load_system(text: str, loading: Loading) -> System:
    """Return the system that a text names.

    Args:
        text: Text of the command line.
        loading: How it is loaded.

    Raises:
        ModelError: The model cannot be loaded, or the server cannot be reached.
        DataError: The file of scores is malformed.
        ConfigError: The judge is not named as ``judge:MODEL@BASE_URL``.
    """
    made = PLAIN_SCORERS.get(text)
    if made is not None:
        scorer: Scorer = made(loading.seed)
        return System(text, text, "baseline", scorer_hash(scorer), scorer)
    if text.startswith(JUDGE):
        return _judge(text, loading)
    if text.lower().startswith(("http:", "https:")):
        key = None if loading.key_env is None else read_server_key(loading.key_env, place="--key-env")
        served = served_scorer(text, timeout=loading.timeout, key=key)
        return System(served.name, text, "server", served.hash, served)
    path = Path(text).expanduser()
    if path.is_file():
        stored = read_score_file(path)
        return System(path.stem, text, "scores", hashlib.sha256(path.read_bytes()).hexdigest(), stored=stored)
    if path.suffix in (".jsonl", ".json") and not path.exists():
        raise DataError("no such file of scores", place=path, fix="check the path")
    check_spelling(text, PLAIN_SCORERS)
    return _model(text, loading)


def _model(text: str, loading: Loading) -> System:
    place = Path(text).expanduser()
    name = place.parent.name if place.name == "model" and place.parent.name else place.name
    if holds_rival(place):
        rival = baselines.load_rival(place, device=loading.device, mode=loading.mode)
        return System(name or text, text, "model", f"{scorer_hash(rival)}/{loading.mode}", rival)
    model = hub.load_model(
        text,
        device=loading.device,
        mode=loading.mode,
        settings=loading.settings,
        trust_remote_code=loading.trust_remote_code,
    )
    encoder = model.encoder
    return System(
        name or text,
        text,
        "model",
        f"{model.hash}/{encoder.mode}",
        model,
        template=encoder.template_hash,
        render=_renderer(encoder),
    )


def _renderer(encoder: Encoder) -> Callable[[Conversation], str] | None:
    """Return a function that returns a conversation as the chat template writes it; None without a template.

    A conversation that the template refuses has no score, and the text of its answer stands for it.
    """
    chat = encoder.chat if isinstance(encoder, TransformerEncoder) else None
    if not isinstance(chat, DecoderChat):
        return None

    def render(conversation: Conversation) -> str:
        try:
            return chat.render([{"role": m.role, "content": m.content} for m in conversation])
        except BackboneError:
            return conversation[-1].content

    return render


def _judge(text: str, loading: Loading) -> System:
    """Return one judge, or a vote of several whose names are separated by commas."""
    judges: dict[str, Scorer] = {}
    asked: set[tuple[str, str]] = set()
    for one in text.removeprefix(JUDGE).split(","):
        model, at, url = one.strip().removeprefix(JUDGE).rpartition("@")
        if not at or not model or not url:
            raise ConfigError(f"'{one}' names no judge", place="MODEL", fix="write judge:MODEL@BASE_URL")
        name = f"{model}@{url}" if model in judges else model
        if (model, url) in asked:
            raise ConfigError("the same judge is asked for twice", place=text, fix="name it once")
        asked.add((model, url))
        key = {} if loading.key_env is None else {"api_key_env": loading.key_env}
        given = {"timeout": loading.timeout, **loading.judge, **key, "model": model, "base_url": url}
        config = parse_config(LabelConfig, given, place="--judge-set")
        folder = loading.folder / "judge" / hashlib.sha256(one.strip().encode()).hexdigest()[:12]
        if loading.judge_mode == "rating":
            judges[name] = baselines.RatingJudge(config, folder=folder)
        else:
            judges[name] = baselines.JudgeScorer(config, folder=folder, mode=loading.judge_mode, seed=loading.seed)
    if len(judges) == 1:
        name, judge = next(iter(judges.items()))
        return System(name, text, "judge", scorer_hash(judge), judge)
    vote = baselines.Vote(judges)
    return System("vote", text, "judge", scorer_hash(vote), vote)
