"""The readings of a local model: the same conversations scored in many ways.

should agree     again; packs; plain Transformers one by one; in company; padded right; padded left; bfloat16
shows the cost   double BOS, no BOS, no end of turn, cut at the end, oldest dropped
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, cast

import torch

from facetrm.backbone.text.chat import Tokenized
from facetrm.core.errors import FacetrmError
from facetrm.data.records import Conversation
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.drift import in_bf16, spread
from facetrm.doctor.own_forward import OwnForward
from facetrm.doctor.readings import Reader, Side, mistakes, rewards_of
from facetrm.model.reward_model import RewardModel

REFERENCE: Final = "engine, alone"
AGAIN: Final = "engine, again"
PACKED: Final = "engine, packs"
PLAIN: Final = "plain, alone"
COMPANY: Final = "plain, in company"
RIGHT: Final = "plain, padded right"
LEFT: Final = "plain, padded left"
BF16: Final = "bfloat16 trunk"
FP32: Final = "float32 trunk"
ROUNDED: Final = "rewards in bfloat16"
DROPPED: Final = "oldest dropped"

# The names of the follow-up tests (the keys of ``Probed.evidence``).
SEED_DECIDES: Final = "one seed gives one reward"
PACKS_AGREE_IN_FLOAT32: Final = "packs agree in float32"
STATED_PAD_AGREES: Final = "padded with the id of config.json, rows agree"
RIGHT_ID_COUNTS: Final = "another padding id moves rows padded on the right"
LEFT_ID_COUNTS: Final = "another padding id moves rows padded on the left"
ENDS_WITH_PAD: Final = "conversations end with the padding id of config.json"
NOT_IN_FLOAT32: Final = "no copy in float32 can be made, so rounding cannot be told from a fault"


@dataclass(frozen=True)
class ProbeReading:
    """The rewards of one reading.

    Attributes:
        name: the name of the reading.
        against: the name of the reading that it is compared with; empty for the reference.
        expected: ``agree`` if the two should agree, ``moves`` if this reading is a known mistake.
        rewards: one reward per conversation, or None if the reading was not run.
        note: why the reading was not run.
    """

    name: str
    against: str
    expected: Literal["agree", "moves"]
    rewards: list[float] | None
    note: str = ""


@dataclass(frozen=True)
class Probed:
    """All readings of one model.

    Attributes:
        readings: the readings, by name.
        full_precision: whether the trunk computes in float32.
        absolute_positions: whether the trunk has absolute position embeddings.
        evidence: the results of the follow-up tests on readings that moved, by the name of the test.
    """

    readings: dict[str, ProbeReading] = field(default_factory=dict)
    full_precision: bool = True
    absolute_positions: bool = False
    evidence: dict[str, bool] = field(default_factory=dict)

    def add(
        self, name: str, against: str, read: Callable[[], list[float] | None], *, moves: bool = False, note: str = ""
    ) -> None:
        """Run one reading and keep its rewards, or the reason why it failed.

        Args:
            name: the name of the reading.
            against: the name of the reading that it is compared with; empty for the reference.
            read: returns the rewards, or None if the reading does not apply.
            moves: whether the reading is a known mistake, expected to move rewards.
            note: why the reading does not apply.
        """
        rewards: list[float] | None = None
        try:
            rewards = read()
        except torch.OutOfMemoryError:
            note = "out of memory"
        except FacetrmError as exc:
            note = exc.problem
        self.readings[name] = ProbeReading(
            name, against, "moves" if moves else "agree", rewards, "" if rewards is not None else note
        )

    def test(self, key: str, run: Callable[[], bool]) -> None:
        """Run a follow-up test and keep its result; if it cannot be run, keep nothing.

        Args:
            key: the name of the test in ``evidence``.
            run: the test.
        """
        try:
            self.evidence[key] = run()
        except (torch.OutOfMemoryError, FacetrmError):
            self.evidence.pop(key, None)

    def rewards(self, name: str | None = None) -> list[float] | None:
        """Return the rewards of a reading (None: the reference), or None if it was not run."""
        wanted = next((key for key, r in self.readings.items() if not r.against), "") if name is None else name
        return self.readings[wanted].rewards if wanted in self.readings else None


def probe_model(
    model: RewardModel, conversations: Sequence[Conversation], *, plain: bool = True
) -> tuple[Probed, list[Tokenized]]:
    """Score the conversations with facetrm's engine, and with plain Transformers and the model's heads.

    Plain Transformers always runs in float32 and is compared with the engine in float32, so rounding cannot explain a
    difference.

    Args:
        model: the loaded model.
        conversations: the conversations to score; at least one.
        plain: whether to also run the trunk with plain Transformers. Experts that read adapters or inner layers are
            never run this way.

    Returns:
        The readings, and the tokenised conversations (empty for encoders and for experts that read adapters or layers).

    Raises:
        BackboneError: a conversation cannot be read.
    """
    if getattr(model.encoder, "kind", None) != "decoder" or model.adapters or model.layers:
        return _probe_encoder(model, conversations), []
    reader = Reader(model)
    rows = reader.tokenized(conversations)
    probed = Probed(full_precision=reader.trunk.dtype == torch.float32, absolute_positions=_absolute_positions(reader))
    probed.add(REFERENCE, "", lambda: reader.engine(rows, mode="exact"))
    probed.add(AGAIN, REFERENCE, lambda: reader.engine(rows, mode="exact"))
    if moved(probed, AGAIN):
        probed.test(SEED_DECIDES, lambda: _seeded(reader, rows) == _seeded(reader, rows))
    probed.add(PACKED, REFERENCE, lambda: reader.engine(rows, mode="fast"))
    exact = _precision(probed, reader, rows)
    if plain:
        _plain(probed, exact, rows)
    probed.add(ROUNDED, REFERENCE, lambda: in_bf16(probed.rewards() or []), moves=True)
    _mistakes(probed, exact or reader, rows, against=REFERENCE if exact is None else exact_reference(probed))
    tokens = 3 * max(len(row.ids) for row in rows) // 4
    probed.add(DROPPED, REFERENCE, lambda: reader.oldest_dropped(conversations, tokens=max(tokens, 2)), moves=True)
    return probed, rows


def exact_reference(probed: Probed) -> str:
    """Return the name of the engine's reading in float32, which plain Transformers is compared with; "" if none.

    Args:
        probed: the readings so far.
    """
    names = (REFERENCE,) if probed.full_precision else (FP32,)
    return next((name for name in names if probed.rewards(name) is not None), "")


def moved(probed: Probed, name: str) -> bool:
    """Return whether a reading differs from the one it is compared with by more than a millionth of the spread.

    Args:
        probed: the readings.
        name: the name of the reading.
    """
    reading = probed.readings.get(name)
    compared = None if reading is None else probed.rewards(reading.against)
    if reading is None or reading.rewards is None or compared is None:
        return False
    return not near(reading.rewards, compared, within=1e-6 * spread(compared))


def near(rewards: Sequence[float], others: Sequence[float], *, within: float) -> bool:
    """Return whether no reward is further than ``within`` from its counterpart.

    Args:
        rewards: the rewards of one reading.
        others: the rewards of another reading, in the same order.
        within: the largest difference allowed, in reward.
    """
    return all(abs(a - b) <= within for a, b in zip(rewards, others, strict=True))


def _precision(probed: Probed, reader: Reader, rows: Sequence[Tokenized]) -> Reader | None:
    """Score in the other precision. Return the reader in float32, or None if no float32 copy can be made."""
    if probed.full_precision:
        probed.add(BF16, REFERENCE, lambda: reader.cast(torch.bfloat16).engine(rows, mode="exact"))
        return reader
    try:
        exact = reader.cast(torch.float32)
    except (torch.OutOfMemoryError, FacetrmError):
        probed.add(FP32, REFERENCE, lambda: None, note=NOT_IN_FLOAT32)
        return None
    probed.add(FP32, REFERENCE, lambda: exact.engine(rows, mode="exact"))
    if moved(probed, PACKED) and (alone := probed.rewards(FP32)) is not None:
        within = 1e-3 * spread(alone)
        probed.test(PACKS_AGREE_IN_FLOAT32, lambda: near(exact.engine(rows, mode="fast"), alone, within=within))
    return exact


def _plain(probed: Probed, exact: Reader | None, rows: Sequence[Tokenized]) -> None:
    """Score with plain Transformers, as a user of Transformers would, in float32."""
    against = exact_reference(probed)
    if exact is None or not against:
        probed.add(PLAIN, REFERENCE, lambda: None, note=NOT_IN_FLOAT32)
        return
    probed.add(PLAIN, against, lambda: exact.plain(rows, side="alone"))
    probed.add(COMPANY, PLAIN, lambda: exact.in_company(rows))
    probed.add(RIGHT, PLAIN, lambda: exact.plain(rows, side="right"))
    probed.add(LEFT, PLAIN, lambda: exact.plain(rows, side="left"))
    other = 0 if exact.pad else 1
    _second_padding(probed, lambda side: exact.plain(rows, side=side, pad=other))


def _mistakes(probed: Probed, reader: Reader, rows: Sequence[Tokenized], *, against: str) -> None:
    """Score the rows with known mistakes applied to them."""
    for mistake, change in mistakes(reader).items():
        changed = [change(row) for row in rows]
        differ = any(a.ids != b.ids for a, b in zip(rows, changed, strict=True))
        probed.add(
            mistake,
            against or REFERENCE,
            lambda changed=changed, differ=differ: reader.engine(changed, mode="exact") if differ else None,  # type: ignore[misc]
            moves=True,
            note="the mistake changes none of these rows",
        )


def _second_padding(probed: Probed, read: Callable[[Side], list[float]]) -> None:
    """If padding moved rewards, pad with another id: the id has no effect if the attention mask is respected."""
    for name, side, key in ((RIGHT, "right", RIGHT_ID_COUNTS), (LEFT, "left", LEFT_ID_COUNTS)):
        first = probed.rewards(name)
        if first is None or not moved(probed, name):
            continue

        def counts(first: list[float] = first, side: str = side) -> bool:
            return not near(first, read(cast(Side, side)), within=1e-3 * spread(first))

        probed.test(key, counts)


def _seeded(reader: Reader, rows: Sequence[Tokenized]) -> list[float]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return reader.engine(rows, mode="exact")


def probe_own_forward(
    probed: Probed, artefact: Artefact, rows: Sequence[Tokenized], *, device: torch.device, trusted: bool = False
) -> None:
    """Add the readings of the model's own Transformers class, in float32. These are the rewards that its users get.

    Args:
        probed: the readings so far.
        artefact: the model's folder.
        rows: the tokenised conversations.
        device: the device to compute on.
        trusted: whether code that comes with the model may run.

    Raises:
        ModelError: Transformers cannot load the folder.
    """
    own, ids = OwnForward(artefact, device=device, trusted=trusted), [row.ids for row in rows]
    against = exact_reference(probed)
    if not against and REFERENCE in probed.readings:
        probed.add(PLAIN, REFERENCE, lambda: None, note=NOT_IN_FLOAT32)
        return
    probed.add(PLAIN, against, lambda: own.rewards(ids, side="alone"))
    note = "no padding token" if own.pad is None else ""
    probed.add(COMPANY, PLAIN, lambda: None if own.pad is None else own.in_company(rows), note=note)
    probed.add(RIGHT, PLAIN, lambda: None if own.pad is None else own.rewards(ids, side="right"), note=note)
    probed.add(LEFT, PLAIN, lambda: None if own.pad is None else own.rewards(ids, side="left"), note=note)
    probed.evidence[ENDS_WITH_PAD] = all(row.ids[-1] == own.stated for row in rows)
    other = next(token for token in range(3) if token not in (own.pad, own.stated))
    _second_padding(probed, lambda side: own.rewards(ids, side=side, pad=other))
    alone = probed.rewards(PLAIN)
    if alone is not None and own.stated not in (None, own.pad) and moved(probed, RIGHT):
        within = 1e-3 * spread(alone)
        padded = partial(own.rewards, ids, side="right", pad=own.stated)
        probed.test(STATED_PAD_AGREES, lambda: near(padded(), alone, within=within))


def rendered(artefact: Artefact, conversations: Sequence[Conversation]) -> list[Tokenized]:
    """Tokenise the conversations with the folder's own tokenizer and template, for a model that facetrm cannot load.

    Args:
        artefact: the model folder, with a tokenizer and a template.
        conversations: the conversations to tokenise.

    Raises:
        ModelError: the template raises an error on a conversation.
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
    """Return the name of the candidate closest to ``rewards``, or None if none is close enough.

    Args:
        rewards: the rewards to be explained.
        candidates: the rewards that each possible explanation would give, by name.
        within: the largest difference allowed, in reward.
    """
    gaps = {
        name: max((abs(a - b) for a, b in zip(rewards, other, strict=True)), default=0.0)
        for name, other in candidates.items()
    }
    name = min(gaps, key=lambda key: gaps[key], default=None)
    return name if name is not None and gaps[name] <= within else None


def _probe_encoder(model: RewardModel, conversations: Sequence[Conversation]) -> Probed:
    """Score through ``encode``, which every encoder has, or through ``score`` if experts read adapters or layers."""
    trunk = getattr(model.encoder, "model", None)
    probed = Probed(full_precision=getattr(trunk, "dtype", torch.float32) == torch.float32)

    def together(messages: Sequence[Conversation]) -> list[float]:
        if model.adapters or model.layers:
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
    """Return whether the trunk has absolute position embeddings."""
    names = ("wpe", "position_embeddings", "embed_positions")
    return any(
        name.endswith(names) for name, module in reader.trunk.named_modules() if hasattr(module, "num_embeddings")
    )
