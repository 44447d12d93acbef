"""The audit of own data as text: what is there, what was left out, what it costs, and how much it can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from facetrm.backbone.checkpoint import looks_like_a_folder, name_on_hub
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.unloaded import UnloadedBackbone, read_unloaded
from facetrm.core.errors import BackboneError
from facetrm.data.audit import PairsAudit, RatingsAudit, audit_pairs, audit_ratings, quoted_columns, shared_prompts
from facetrm.data.read.files import FileRead
from facetrm.data.records import Conversation, Message, Preference, Rating, conversation_key, prompt_key
from facetrm.data.views import as_pairs, part_of, split_by_prompt
from facetrm.evaluate.verdict import WANTED, expected_half_width, prompts_wanted
from facetrm.recipes.own_data.load import OwnData

PARAMETERS_A_SECOND: Final = 135e6 * 1000
"""Stated rate: SmolLM2 (135M parameters) reads about 1,000 tokens per second on one CPU thread in bfloat16."""
_CHARACTERS: Final = 4.0
"""Stated characters per token, where the tokenizer cannot be read."""
_SAMPLED: Final = 200
_MEASURED: Final = 1000


@dataclass(frozen=True)
class ReadingCost:
    """What the backbone has to read. A prompt that several answers share counts once.

    Attributes:
        conversations: Number of distinct conversations.
        tokens: Estimated number of tokens.
        characters: Characters per token.
        measured: Whether the tokenizer was used; if not, 4 characters per token are assumed.
        problem: Why the tokenizer could not be used; empty if it was.
        limit: Most tokens of a conversation; None if the backbone does not say.
        too_long: Number of conversations above the limit.
        cut: Whether the run cuts these; if not, it stops at the first.
        longest: Tokens of the longest conversation that was counted.
        seconds: Estimated seconds on one CPU thread; None if the number of parameters is unknown.
        parameters: Number of parameters of the backbone, or None.
    """

    conversations: int
    tokens: int
    characters: float
    measured: bool
    problem: str
    limit: int | None
    too_long: int
    cut: bool
    longest: int
    seconds: float | None
    parameters: int | None


@dataclass(frozen=True)
class DataAudit:
    """All that is said of a user's data before a training.

    Attributes:
        ratings: What the rated rows hold.
        pairs: What the preferences hold.
        shared: Number of prompts in both.
        held_out: Number of held-out pairs.
        held_out_prompts: Number of their prompts.
        cost: What the backbone has to read.
    """

    ratings: RatingsAudit
    pairs: PairsAudit
    shared: int
    held_out: int
    held_out_prompts: int
    cost: ReadingCost


def audit_data(data: OwnData, backbone: BackboneConfig, *, test_share: float, seed: int) -> DataAudit:
    """Return the audit of a user's data.

    Args:
        data: Ratings and preferences.
        backbone: Settings of the backbone; only its tokenizer and the shapes of its tensors are read.
        test_share: Share of the prompts that a run holds out, if the rows have no splits of their own.
        seed: Random seed of the split.
    """
    overall = [p for p in data.preferences if p.aspect == "overall" and part_of(p) != "validation"]
    if any(part_of(r) == "test" for r in data.rated) or any(part_of(p) == "test" for p in data.preferences):
        test = [p for p in overall if part_of(p) == "test"]
    else:
        test = split_by_prompt(overall, {"train": 1.0 - test_share, "test": test_share}, seed=seed)["test"]
    return DataAudit(
        ratings=audit_ratings(data.rated, data.objectives),
        pairs=audit_pairs(data.preferences),
        shared=shared_prompts(data.rated, data.preferences),
        held_out=sum(len(as_pairs(p)) for p in test),
        held_out_prompts=len({p.prompt_key for p in test}),
        cost=reading_cost(data.rated, data.preferences, backbone),
    )


def reading_cost(ratings: Sequence[Rating], preferences: Sequence[Preference], backbone: BackboneConfig) -> ReadingCost:
    """Return what the backbone has to read of the rows.

    Args:
        ratings: Rated conversations.
        preferences: Pairs and rankings.
        backbone: Settings of the backbone.
    """
    known: dict[str, Conversation] = {conversation_key(r.messages): r.messages for r in ratings}
    for preference in preferences:
        for answer in preference.responses:
            messages = (*preference.prompt, answer)
            known.setdefault(conversation_key(messages), messages)
    prompts = {prompt_key(messages[:-1]): _length(messages[:-1]) for messages in known.values()}
    characters = sum(prompts.values()) + sum(len(messages[-1].content) for messages in known.values())
    reader, problem = _reader(backbone)
    ratio, counts = _CHARACTERS, dict[str, int]()
    if reader is not None:
        try:
            counts = _counted(reader, known, backbone.max_tokens or reader.max_tokens)
            ratio = sum(_length(known[key]) for key in counts) / max(1, sum(counts.values()))
        except BackboneError as exc:
            problem, reader = str(exc), None
    limit = backbone.max_tokens or (None if reader is None else reader.max_tokens)
    if reader is None:
        counts = {key: round(_length(messages) / ratio) for key, messages in known.items()}
    tokens = round(characters / ratio)
    parameters = None if reader is None else reader.parameters
    return ReadingCost(
        conversations=len(known),
        tokens=tokens,
        characters=ratio,
        measured=reader is not None,
        problem=problem,
        limit=limit,
        too_long=0 if limit is None else sum(count > limit for count in counts.values()),
        cut=backbone.truncation != "error",
        longest=max(counts.values(), default=0),
        seconds=None if parameters is None else tokens * parameters / PARAMETERS_A_SECOND,
        parameters=parameters,
    )


def _reader(backbone: BackboneConfig) -> tuple[UnloadedBackbone | None, str]:
    """Return the tokenizer, or why there is none: a model on the Hub may be out of reach now, but not for the run."""
    try:
        return read_unloaded(backbone), ""
    except BackboneError as exc:
        if name_on_hub(backbone.path) is None and looks_like_a_folder(backbone.path):
            raise
        return None, str(exc)


def _counted(reader: UnloadedBackbone, known: dict[str, Conversation], limit: int | None) -> dict[str, int]:
    """Return the tokens of a sample, and of the longest conversations, which alone can be above the limit."""
    keys = list(known)
    sample = keys[:: max(1, len(keys) // _SAMPLED)]
    by_length = sorted(keys, key=lambda key: -_length(known[key]))
    long = [key for key in by_length[:_MEASURED] if limit is not None and _length(known[key]) > limit]
    return {key: reader.count(known[key]) for key in dict.fromkeys([*sample, *by_length[:1], *long])}


def _length(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def audit_lines(data: OwnData, found: DataAudit) -> list[str]:
    """Return the audit as lines of text.

    Args:
        data: Ratings and preferences.
        found: The audit.
    """
    return [
        "Files",
        *(f"  {line}" for file in data.ratings for line in _file_lines(file)),
        *(f"  {line}" for file in data.pairs for line in _file_lines(file)),
        *([f"  {data.borrowed}"] if data.borrowed else []),
        "Objectives" + (" (guessed: check them)" if data.guessed else ""),
        *(f"  {line}" for line in _objective_lines(data, found.ratings)),
        "Rows",
        *(f"  {line}" for line in (*_rating_lines(data, found.ratings), *_pair_lines(found), *_shared_lines(found))),
        "Backbone",
        *(f"  {line}" for line in _cost_lines(found.cost)),
        "Held-out pairs",
        *(f"  {line}" for line in _interval_lines(found)),
    ]


def _file_lines(file: FileRead[Rating] | FileRead[Preference]) -> Iterator[str]:
    records = file.records
    kind = "ratings" if isinstance(records[0], Rating) else "preferences"
    yield f"{file.path}: {file.rows} rows, {len(records)} {kind}, read as '{file.convention}'"
    for reason, count in file.left_out.items():
        yield f"  left out: {reason} ({count})"
    if file.skipped:
        yield f"  bad rows skipped: {file.skipped} (listed in the side file)"
    if file.unread:
        yield f"  not used: {', '.join(file.unread[:12])}{' and others' if len(file.unread) > 12 else ''}"


def _objective_lines(data: OwnData, found: RatingsAudit) -> Iterator[str]:
    basis = {guess.objective.name: guess for guess in data.guessed}
    for one in data.objectives:
        line = f"{one.name}: {found.rated[one.name]} ratings, {one.kind} {one.low:g} to {one.high:g}, "
        line += {"higher": "higher is better", "lower": "lower is better", "unknown": "direction unknown: no weight"}[
            one.direction
        ]
        yield line + (f" (seen: {basis[one.name].low:g} to {basis[one.name].high:g})" if one.name in basis else "")
    for name, value in found.constant.items():
        yield f"{name} is constant: every rating is {value:g}, so it cannot be learned"
    for name, other, how, rows in found.alike:
        yield f"{name} and {other} say the same on {rows} rows ({how}): drop one"
    for name, count in found.unnamed.items():
        if name in data.not_taken:
            continue
        yield f"{name} is not declared: {count} ratings are not used"
    if data.not_taken:
        yield f"not taken, because they look like ids, counts or lengths: {', '.join(data.not_taken)}"
    quoted = [name for file in data.ratings for name in quoted_columns(file)]
    if quoted:
        yield f"not taken, because their numbers are text: {', '.join(quoted)}; write them unquoted"
    if not any(one.gated for one in data.objectives):
        yield "no objective has a known direction, so nothing gets weight: set 'direction' in the objectives file"


def _rating_lines(data: OwnData, found: RatingsAudit) -> Iterator[str]:
    yield f"ratings: {found.rows} rated answers to {found.prompts} prompts"
    if found.copies:
        yield f"  rows that repeat an earlier one, labels too: {found.copies} (data.deduplicate=true removes them)"
    if empty := sum(not record.ratings for record in data.rated):
        yield f"  rows without any rating: {empty} (they teach nothing)"


def _pair_lines(found: DataAudit) -> Iterator[str]:
    pairs = found.pairs
    yield f"preferences: {pairs.pairs} pairs on {pairs.prompts} prompts"
    if pairs.copies:
        yield f"  rows that repeat an earlier one: {pairs.copies} (data.deduplicate=true removes them)"
    if pairs.equal:
        yield f"  pairs with the same text as chosen and rejected: {pairs.equal} (no fit uses them)"
    if pairs.contrary:
        yield f"  pairs labelled in both orders: {pairs.contrary} (they cancel out)"
    if pairs.against_scores:
        yield f"  pairs whose score_chosen is below score_rejected: {pairs.against_scores} (which is better?)"
    if pairs.other_aspects:
        yield f"  preferences about another aspect than 'overall': {pairs.other_aspects} (not used)"
    if different := pairs.longer + pairs.shorter:
        share = 100 * pairs.longer / different
        yield f"  the longer answer is preferred in {share:.0f}% of {different}: a model has to beat that"


def _shared_lines(found: DataAudit) -> Iterator[str]:
    yield f"prompts in both: {found.shared}" + (
        ", so the gate learns from cross-fitted scores (experts.cross_fit)" if found.shared else ""
    )


def _cost_lines(cost: ReadingCost) -> Iterator[str]:
    how = "by its tokenizer" if cost.measured else "assuming 4 characters per token"
    yield f"{cost.conversations} conversations, about {cost.tokens:,} tokens with shared prompts read once ({how})"
    if cost.problem:
        yield f"its tokenizer was not used: {cost.problem}"
    if cost.limit is not None:
        end = "and the run cuts them" if cost.cut else "and the run stops at the first: set backbone.truncation"
        say = "none is longer" if not cost.too_long else f"longer: {cost.too_long}, {end}"
        yield f"limit of {cost.limit:,} tokens per conversation: {say} (longest: {cost.longest:,})"
    if cost.seconds is None:
        yield "reading time: unknown, because the number of parameters is not known before the download"
    else:
        yield (
            f"reading time: about {_time(cost.seconds)} on one CPU thread, not measured here but in proportion to "
            f"1,000 tokens/s for 135M parameters (this one has {_size(cost.parameters or 0)}); a GPU needs far less"
        )


def _interval_lines(found: DataAudit) -> Iterator[str]:
    half = 100 * expected_half_width(found.held_out_prompts)
    if not found.held_out:
        yield "none: the run would stop; give more pairs, or raise data.test_share"
        return
    yield (
        f"{found.held_out} on {found.held_out_prompts} prompts: the accuracy will be known to about "
        f"+-{half:.0f} points (95%)"
    )
    if half > 100 * WANTED:
        yield f"{prompts_wanted()} held-out prompts would give +-{100 * WANTED:.0f} points"


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
