"""The probes of a local model: one table of readings, and a finding for each pair that should agree and does not.

should agree     again; packs; plain Transformers one by one; padded right; padded left; bfloat16
shows the cost   double BOS, no BOS, no end of turn, cut at the end, oldest dropped
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import torch

from facetrm.backbone.text.chat import Tokenized
from facetrm.core.errors import FacetrmError
from facetrm.data.records import Conversation
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.drift import in_bf16
from facetrm.doctor.own_forward import OwnForward
from facetrm.doctor.readings import Reader, mistakes, rewards_of
from facetrm.model.reward_model import RewardModel

REFERENCE: Final = "engine, alone"
AGAIN: Final = "engine, again"
PACKED: Final = "engine, packs"
PLAIN: Final = "plain, alone"
RIGHT: Final = "plain, padded right"
LEFT: Final = "plain, padded left"
BF16: Final = "bfloat16 trunk"
FP32: Final = "float32 trunk"
ROUNDED: Final = "rewards in bfloat16"
DROPPED: Final = "oldest dropped"


@dataclass(frozen=True)
class Reading:
    """The rewards of one way of reading.

    Attributes:
        name: of the way. against: the name of the one it is compared with.
        expected: whether they should agree.
        rewards: one per conversation, None where it was not run.
        note: why it was not run.
    """

    name: str
    against: str
    expected: Literal["agree", "moves"]
    rewards: list[float] | None
    note: str = ""


@dataclass(frozen=True)
class Probed:
    """All readings of one model, by name; ``facts`` say what may explain them."""

    readings: dict[str, Reading] = field(default_factory=dict)
    full_precision: bool = True
    absolute_positions: bool = False

    def add(
        self, name: str, against: str, read: Callable[[], list[float] | None], *, moves: bool = False, note: str = ""
    ) -> None:
        """Run ``read`` and keep what it gives, or why it does not.

        Args:
            name: of the reading.
            against: the name of the one it is compared with.
            read: gives the rewards, None where there is nothing to read.
            moves: whether it is a mistake, expected to move rewards.
            note: why there is nothing to read.
        """
        rewards: list[float] | None = None
        try:
            rewards = read()
        except torch.OutOfMemoryError:
            note = "memory does not hold it"
        except FacetrmError as exc:
            note = exc.problem
        self.readings[name] = Reading(
            name, against, "moves" if moves else "agree", rewards, "" if rewards is not None else note
        )

    def rewards(self, name: str | None = None) -> list[float] | None:
        """Return the rewards of a reading by ``name`` (the one that others are compared with), None where not run."""
        wanted = next((key for key, r in self.readings.items() if not r.against), "") if name is None else name
        return self.readings[wanted].rewards if wanted in self.readings else None


def probe_model(
    model: RewardModel, conversations: Sequence[Conversation], *, plain: bool = True
) -> tuple[Probed, list[Tokenized]]:
    """Return the readings of our engine, and of plain Transformers with the model's heads, and the rows that were read.

    Args:
        model: loaded.
        conversations: at least one.
        plain: also read the bare trunk as a user of Transformers would; experts with adapters have no such user.

    Raises:
        BackboneError: a conversation that cannot be read; it names the row.
    """
    if getattr(model.encoder, "kind", None) != "decoder" or model.adapters:
        return _probe_encoder(model, conversations), []
    reader = Reader(model)
    rows = reader.tokenized(conversations)
    probed = Probed(full_precision=reader.trunk.dtype == torch.float32, absolute_positions=_absolute_positions(reader))
    probed.add(REFERENCE, "", lambda: reader.engine(rows, mode="exact"))
    probed.add(AGAIN, REFERENCE, lambda: reader.engine(rows, mode="exact"))
    probed.add(PACKED, REFERENCE, lambda: reader.engine(rows, mode="fast"))
    if plain:
        probed.add(PLAIN, REFERENCE, lambda: reader.plain(rows, side="alone"))
        probed.add(RIGHT, PLAIN, lambda: reader.plain(rows, side="right"))
        probed.add(LEFT, PLAIN, lambda: reader.plain(rows, side="left"))
    if probed.full_precision:
        probed.add(BF16, REFERENCE, lambda: reader.in_dtype(rows, torch.bfloat16))
    else:
        probed.add(FP32, REFERENCE, lambda: reader.in_dtype(rows, torch.float32))
    probed.add(ROUNDED, REFERENCE, lambda: in_bf16(probed.rewards() or []), moves=True)
    for mistake, change in mistakes(reader).items():
        changed = [change(row) for row in rows]
        differ = any(a.ids != b.ids for a, b in zip(rows, changed, strict=True))
        probed.add(
            mistake,
            REFERENCE,
            lambda changed=changed, differ=differ: reader.engine(changed, mode="exact") if differ else None,  # type: ignore[misc]
            moves=True,
            note="nothing to take away",
        )
    tokens = 3 * max(len(row.ids) for row in rows) // 4
    probed.add(DROPPED, REFERENCE, lambda: reader.oldest_dropped(conversations, tokens=max(tokens, 2)), moves=True)
    return probed, rows


def probe_own_forward(probed: Probed, artefact: Artefact, rows: Sequence[Tokenized], *, device: torch.device) -> None:
    """Add the readings of the class that Transformers finds for the model: what its users get.

    Args:
        probed: the readings so far.
        artefact: the model's folder.
        rows: as the engine read them.
        device: where to compute.

    Raises:
        ModelError: Transformers cannot load the folder.
    """
    own, ids = OwnForward(artefact, device=device), [row.ids for row in rows]
    against = REFERENCE if REFERENCE in probed.readings else ""
    probed.add(PLAIN, against, lambda: own.rewards(ids, side="alone"))
    note = "no padding token" if own.pad is None else ""
    probed.add(RIGHT, PLAIN, lambda: None if own.pad is None else own.rewards(ids, side="right"), note=note)
    probed.add(LEFT, PLAIN, lambda: None if own.pad is None else own.rewards(ids, side="left"), note=note)


def rendered(artefact: Artefact, conversations: Sequence[Conversation]) -> list[Tokenized]:
    """Return the rows as the folder's own tokenizer and template make them, for a model that our engine cannot read.

    Args:
        artefact: the folder, with a tokenizer and a template.
        conversations: to be rendered.

    Raises:
        ModelError: the template refuses one.
    """
    rows: list[Tokenized] = []
    tokenizer = artefact.tokenizer
    if tokenizer is None:
        return rows
    for messages in conversations:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text = artefact.render(turns)
        ids = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        rows.append(Tokenized(ids, 0, 1, len(ids)))
    return rows


def closest(rewards: Sequence[float], candidates: Mapping[str, Sequence[float]], *, within: float) -> str | None:
    """Return the name of the candidate nearest to ``rewards``, None where none is ``within`` that largest difference.

    Args:
        rewards: to be explained.
        candidates: rewards by the name of what would explain them.
        within: the largest difference allowed, in reward.
    """
    gaps = {
        name: max((abs(a - b) for a, b in zip(rewards, other, strict=True)), default=0.0)
        for name, other in candidates.items()
    }
    name = min(gaps, key=lambda key: gaps[key], default=None)
    return name if name is not None and gaps[name] <= within else None


def _probe_encoder(model: RewardModel, conversations: Sequence[Conversation]) -> Probed:
    """Read through ``encode`` alone: what every encoder has; with adapters through the router and each task's own."""
    probed = Probed()

    def together(messages: Sequence[Conversation]) -> list[float]:
        if model.adapters:
            return [score.reward for score in model.score(messages)]
        return rewards_of(model, model.encoder.encode(messages))

    def one_by_one() -> list[float]:
        return [together([messages])[0] for messages in conversations]

    probed.add(REFERENCE, "", one_by_one)
    probed.add(AGAIN, REFERENCE, one_by_one)
    probed.add(PACKED, REFERENCE, lambda: together(conversations))
    probed.add(ROUNDED, REFERENCE, lambda: in_bf16(probed.rewards() or []), moves=True)
    return probed


def _absolute_positions(reader: Reader) -> bool:
    """Whether the trunk adds a vector per position to its input."""
    names = ("wpe", "position_embeddings", "embed_positions")
    return any(
        name.endswith(names) for name, module in reader.trunk.named_modules() if hasattr(module, "num_embeddings")
    )
