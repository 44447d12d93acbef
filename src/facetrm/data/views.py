"""Operations on records: split by prompt, mix, deduplicate, decontaminate, and turn ratings into preferences."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import numpy as np

from facetrm.core.errors import DataError, did_you_mean
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.data.objectives import Objective
from facetrm.data.records import Preference, Rating, conversation_key

R = TypeVar("R", Rating, Preference)

_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+")


@final
@dataclass(frozen=True)
class Filtered(Generic[R]):
    """The result of a filter: the kept records, in order, and the removed ones, each with the reason."""

    records: list[R]
    removed: list[tuple[R, str]]


def split_by_prompt(records: Sequence[R], fractions: Mapping[str, float], *, seed: int) -> dict[str, list[R]]:
    """Split records so that no prompt is in two parts.

    ``u = sha256(seed, prompt_key) / 2^256`` falls into one of the intervals that the fractions cut [0, 1) into. A
    prompt's part depends on nothing else: adding rows never moves it, and several lists of records (ratings and
    preferences) split with the same fractions and seed agree.

    Args:
        records: ratings or preferences.
        fractions: expected share of the prompts by part name; the shares sum to 1.
        seed: random seed of the split.

    Returns:
        Records of each part by name, in order. The shares match the fractions in expectation, not exactly.

    Raises:
        DataError: A fraction is negative, or the fractions do not sum to 1.
    """
    if not fractions or min(fractions.values()) < 0 or not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-9):
        raise DataError(
            f"fractions {dict(fractions)} are not shares of 1", place="split_by_prompt", fix="make them sum to 1"
        )
    names = list(fractions)
    ends = list(itertools.accumulate(fractions.values()))
    last = max(k for k, name in enumerate(names) if fractions[name] > 0)
    parts: dict[str, list[R]] = {name: [] for name in names}
    for record in records:
        digest = hashlib.sha256(f"{seed}\x1f{record.prompt_key}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2.0**64
        parts[names[next((k for k, end in enumerate(ends) if u < end), last)]].append(record)
    return parts


_PARTS = dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation") | {"test": "test", "train": "train"}


def part_of(record: Rating | Preference) -> str | None:
    """Return the part given by a record's ``split``: train, validation or test; None for any other value or none.

    ``valid``, ``val``, ``dev`` and ``eval`` are validation; case does not matter.

    Args:
        record: a rating or a preference.
    """
    return _PARTS.get((record.split or "").strip().casefold())


def set_aside(records: Sequence[R], part: str) -> tuple[list[R], list[R]]:
    """Return the records outside a part, and the records in it, each in order.

    Args:
        records: ratings or preferences.
        part: name of the part, such as ``validation``.
    """
    return [r for r in records if part_of(r) != part], [r for r in records if part_of(r) == part]


def split_as_given(records: Sequence[R], *, place: object) -> tuple[list[R], list[R]]:
    """Return the training and the test records, according to each record's ``split``.

    Args:
        records: ratings or preferences, without the validation records.
        place: where the records come from, for error messages.

    Raises:
        DataError: A record belongs to neither part.
    """
    for record in records:
        if part_of(record) not in ("train", "test"):
            raise DataError(
                f"row '{record.id}' has split {record.split!r}",
                place=place,
                fix="give every row split train or test (or validation, which is held out)",
            )
    return set_aside(records, "test")


def mix(
    parts: Mapping[str, Sequence[R]],
    weights: Mapping[str, float],
    *,
    seed: int,
    size: int | None = None,
    repeat: bool = False,
) -> list[R]:
    """Draw a shuffled mixture in which each part has the share ``weight / sum of weights``.

    Args:
        parts: records by part name, such as one list per source.
        weights: weight >= 0 of every part, by name.
        seed: random seed of the draw and the order.
        size: total number of records; None gives the largest mixture that uses no record twice.
        repeat: whether to reuse the records of a part that is too small.

    Returns:
        The mixture; the counts of the parts are rounded by largest remainder.

    Raises:
        DataError: Weights and parts do not match, or a part is too small and ``repeat`` is off.
    """
    for name in [*weights, *parts]:
        known = parts if name in weights else weights
        if name not in known:
            raise DataError(f"'{name}' has no {'part' if known is parts else 'weight'}", fix=did_you_mean(name, known))
    total = sum(weights.values())
    if not total > 0 or not math.isfinite(total) or min(weights.values()) < 0:
        raise DataError(f"weights are {dict(weights)}", place="mix", fix="give finite weights >= 0, one of them > 0")
    shares = {name: weight / total for name, weight in weights.items() if weight > 0}
    if size is None:
        size = int(min(len(parts[name]) / share for name, share in shares.items()) + 1e-9)
    counts = _round_to(shares, size)
    rng = np.random.default_rng(seed)
    drawn: list[R] = []
    for name, count in counts.items():
        part = parts[name]
        if count > len(part) and (not repeat or not part):
            raise DataError(
                f"part '{name}' has {len(part)} records and the mixture needs {count}",
                place="mix",
                fix="ask for a smaller size or weight, or allow repeat",
            )
        order: list[int] = []
        while len(order) < count:
            order += rng.permutation(len(part)).tolist()
        drawn += [part[row] for row in order[:count]]
    return [drawn[int(i)] for i in rng.permutation(len(drawn))]


def _round_to(shares: Mapping[str, float], size: int) -> dict[str, int]:
    counts = {name: int(share * size + 1e-9) for name, share in shares.items()}
    rest = sorted(shares, key=lambda name: counts[name] - shares[name] * size)
    for name in rest[: size - sum(counts.values())]:
        counts[name] += 1
    return counts


def deduplicate(records: Sequence[R]) -> Filtered[R]:
    """Keep only the first of all records with exactly the same conversation and labels.

    The same conversation with different labels is kept: that is rater noise, not a copy. The count is logged.
    """
    seen: dict[str, R] = {}
    kept: list[R] = []
    removed: list[tuple[R, str]] = []
    for record in records:
        key = _content_key(record)
        if key in seen:
            removed.append((record, f"the same as {seen[key].id or 'an earlier record'}"))
        else:
            seen[key] = record
            kept.append(record)
    log("deduplicate", records=len(records), removed=len(removed))
    return Filtered(kept, removed)


def _content_key(record: Rating | Preference) -> str:
    if isinstance(record, Rating):
        return fingerprint([conversation_key(record.messages), record.ratings])
    texts = [conversation_key(record.prompt), [r.content for r in record.responses]]
    return fingerprint([*texts, record.aspect, record.strength])


def decontaminate(
    records: Sequence[R], benchmark: Iterable[Rating | Preference], *, ngram: int = 8, threshold: float = 0.3
) -> Filtered[R]:
    """Remove records whose prompt equals, or overlaps strongly with, a prompt of a benchmark.

    ``share = |A & B| / min(|A|, |B|)`` with the sets A and B of the prompts' n-grams of words (case, width and
    punctuation normalised; a shorter turn is one n-gram; system turns do not count). The removed records are counted in
    the log and returned.

    Args:
        records: training records.
        benchmark: records that must not be trained on.
        ngram: number of words in an n-gram.
        threshold: share in (0, 1] at and above which a prompt counts as contaminated.

    Raises:
        DataError: ``ngram`` is below 1, or ``threshold`` is outside (0, 1].
    """
    if ngram < 1 or not 0.0 < threshold <= 1.0:
        raise DataError(
            f"ngram {ngram}, threshold {threshold}", place="decontaminate", fix="give ngram >= 1 and 0 < threshold <= 1"
        )
    prompts = {record.prompt_key: record for record in benchmark}
    grams = {key: _shingles(record, ngram) for key, record in prompts.items()}
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, shingles in grams.items():
        for shingle in shingles:
            holders[shingle].append(key)
    verdicts: dict[str, str] = {}
    kept: list[R] = []
    removed: list[tuple[R, str]] = []
    for record in records:
        key = record.prompt_key
        if key not in verdicts:
            if key in prompts:
                verdicts[key] = f"the prompt of {prompts[key].id or 'a benchmark record'}"
            else:
                verdicts[key] = _overlap(_shingles(record, ngram), grams, holders, threshold, prompts)
        if verdicts[key]:
            removed.append((record, verdicts[key]))
        else:
            kept.append(record)
    exact = sum(reason.startswith("the prompt") for _, reason in removed)
    log("decontaminate", records=len(records), same_prompt=exact, shared_ngrams=len(removed) - exact)
    return Filtered(kept, removed)


def _shingles(record: Rating | Preference, ngram: int) -> set[tuple[str, ...]]:
    shingles = set()
    for message in record.prompt:
        if message.role == "system":  # often the same for all rows of a file, and not specific to a benchmark
            continue
        words = _WORD.findall(unicodedata.normalize("NFKC", message.content).casefold())
        for start in range(max(len(words) - ngram + 1, min(len(words), 1))):
            shingles.add(tuple(words[start : start + ngram]))
    return shingles


def _overlap(
    shingles: set[tuple[str, ...]],
    grams: Mapping[str, set[tuple[str, ...]]],
    holders: Mapping[tuple[str, ...], list[str]],
    threshold: float,
    prompts: Mapping[str, Rating | Preference],
) -> str:
    """Return the reason to remove a prompt with these n-grams, or an empty text."""
    shared = Counter(key for shingle in shingles for key in holders.get(shingle, ()))
    for key, count in shared.most_common():
        share = count / min(len(shingles), len(grams[key]))
        if share >= threshold:
            return f"shares {share:.0%} of its n-grams with {prompts[key].id or 'a benchmark record'}"
    return ""


def ratings_to_preferences(
    ratings: Iterable[Rating], objective: Objective, *, min_gap: float = 0.0, aspect: str | None = None
) -> list[Preference]:
    """Return every pair of responses to the same prompt with different ratings of ``objective``, the better one first.

    ``strength = |unit(a) - unit(b)|`` on the objective's map to [0, 1], where higher is always better. Ties, gaps below
    ``min_gap`` and pairs with the same text are left out; their count is logged.

    Args:
        ratings: rated conversations; those without this objective are ignored.
        objective: objective that decides which response is better.
        min_gap: minimum strength of a pair, on the unit scale.
        aspect: aspect of the pairs; None for the objective's name, ``overall`` for the overall preference.

    Raises:
        DataError: The direction of the objective is unknown, or a prompt does not end with a user message.

    Example:
        >>> from facetrm import Objective, Rating, conversation, ratings_to_preferences
        >>> ask = {"role": "user", "content": "two plus two ?"}
        >>> rated = [
        ...     Rating(messages=conversation([ask, {"role": "assistant", "content": text}]), ratings={"correct": value})
        ...     for text, value in (("four", 4), ("five", 0))
        ... ]
        >>> pairs = ratings_to_preferences(rated, Objective(name="correct", low=0, high=4))
        >>> pairs[0].chosen[-1].content
        'four'
    """
    if not objective.gated:
        raise DataError(
            f"the direction of objective '{objective.name}' is unknown",
            place="ratings_to_preferences",
            fix="declare its direction, or use another objective",
        )
    groups: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        if objective.name in rating.ratings:
            groups[conversation_key(rating.prompt)].append(rating)
    pairs: list[Preference] = []
    ties = same = 0
    for group in groups.values():
        for a, b in itertools.combinations(group, 2):
            gap = objective.to_unit(a.ratings[objective.name]) - objective.to_unit(b.ratings[objective.name])
            if a.messages[-1].content == b.messages[-1].content:
                same += 1
            elif abs(gap) < max(min_gap - 1e-12, 1e-12):
                ties += 1
            else:
                better, worse = (a, b) if gap > 0 else (b, a)
                pairs.append(_as_pair(better, worse, aspect or objective.name, min(abs(gap), 1.0)))
    log("ratings to preferences", objective=objective.name, pairs=len(pairs), ties_left_out=ties, same_text=same)
    return pairs


def _as_pair(better: Rating, worse: Rating, aspect: str, strength: float) -> Preference:
    def shared(field: str) -> str | None:
        value: str | None = getattr(better, field)
        return value if value == getattr(worse, field) else None

    if better.prompt[-1].role != "user":
        raise DataError(
            f"the prompt of rating '{better.id}' ends with '{better.prompt[-1].role}'",
            place="ratings_to_preferences",
            fix="end the prompt of a pair with a user message",
        )
    return Preference(
        id=f"{better.id}>{worse.id}" if better.id and worse.id else "",
        source=better.source,
        subset=shared("subset"),
        task=shared("task"),
        split=shared("split"),
        prompt=better.prompt,
        responses=(better.messages[-1], worse.messages[-1]),
        aspect=aspect,
        strength=strength,
    )


RANKING = "cut_from_ranking"
"""The key in a pair's ``meta`` with the ranking that it comes from and the ranks of its two responses."""


def as_pairs(preference: Preference) -> list[Preference]:
    """Return one pair for every two responses of a ranking, the better one chosen.

    A pair is returned unchanged. Each pair of a longer ranking refers to the ranking in ``meta``, so a fit can give the
    whole ranking the weight of one pair (:func:`facetrm.fit.rankings.ranking_shares`).

    Args:
        preference: two or more responses, best first.
    """
    if len(preference.responses) == 2:
        return [preference]
    name = fingerprint([preference.id, preference.prompt_key, _content_key(preference)])
    return [
        preference.model_copy(
            update={
                "id": f"{preference.id}/{i}-{j}",
                "responses": (better, worse),
                "meta": {**preference.meta, RANKING: {"name": name, "places": [i, j]}},
            }
        )
        for (i, better), (j, worse) in itertools.combinations(enumerate(preference.responses), 2)
    ]
