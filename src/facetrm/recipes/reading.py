"""What the backbone reads of the rows: how many are truncated, and which pairs have two answers that read the same.

Two answers read the same if the backbone gets the same tokens for both. Such a pair cannot teach anything, so no fit
uses it. In the test part it stays and counts as a tie, and the number of ties is reported with each accuracy. The
reasons are counted separately:

    given_equal              the two texts are equal
    equal_after_truncation   the texts differ only in the part that was truncated
    read_alike               the texts differ, but the template or the tokenizer turns them into the same tokens
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import combinations
from typing import Any, Final, final

from facetrm.backbone.encoder import Encoder, Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.core.progress import log
from facetrm.data.records import Conversation, Preference, Rating, conversation_key
from facetrm.data.views import as_pairs
from facetrm.evaluate.compare import Pairs
from facetrm.fit.finetune.rows import RowReader
from facetrm.fit.rankings import ranking_of

REASONS: Final = {
    "given_equal": "given with the same text twice",
    "equal_after_truncation": "equal after truncation",
    "read_alike": "made equal by the template or the tokenizer",
}


@dataclass(frozen=True)
class Reading:
    """How many conversations were read and truncated, and how many pairs have two answers that read the same.

    Attributes:
        rows: Number of distinct conversations.
        truncated: Number of these that were truncated to the backbone's maximum length.
        pairs: Number of training pairs; a ranking counts as all pairs of its answers.
        pairs_test: Number of test pairs.
        taken_out: Number of training pairs whose answers read the same, by reason; no fit uses them.
        equal_test: Indices of the test pairs whose answers read the same; each counts as a tie.
        reasons_test: Number of these test pairs, by reason.
    """

    rows: int = 0
    truncated: int = 0
    pairs: int = 0
    pairs_test: int = 0
    taken_out: dict[str, int] = field(default_factory=dict)
    equal_test: tuple[int, ...] = ()
    reasons_test: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready counts, zeros included."""
        parts = {"training": (self.pairs, self.taken_out), "test": (self.pairs_test, self.reasons_test)}
        return {
            "rows": self.rows,
            "truncated": self.truncated,
            "equal_pairs": {
                name: {"of": of, **{reason: found.get(reason, 0) for reason in REASONS}}
                for name, (of, found) in parts.items()
            },
        }

    def lines(self) -> tuple[str, ...]:
        """Return sentences about truncated conversations and equal pairs; empty if there are none."""
        said = []
        if self.truncated:
            said.append(f"{self.truncated} of {self.rows} conversations were truncated to the backbone's limit.")
        if self.taken_out:
            count, why = sum(self.taken_out.values()), _reasons(self.taken_out)
            said.append(f"{count} of {self.pairs} training pairs have two answers that read the same, left out: {why}.")
        if self.reasons_test:
            count, why = sum(self.reasons_test.values()), _reasons(self.reasons_test)
            said.append(
                f"{count} of {self.pairs_test} held-out pairs have two answers that read the same; "
                f"each counts as a tie (half right): {why}."
            )
        return tuple(said)


def _reasons(found: dict[str, int]) -> str:
    return ", ".join(f"{found[reason]} {words}" for reason, words in REASONS.items() if found.get(reason))


@final
class RowsReader:
    """Tokenises rows as a run does, and finds answers that read the same.

    Args:
        encoder: Encoder whose tokens count. One without a tokenizer (a bag of words) is taken to read the whole text.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._read = RowReader(encoder) if isinstance(encoder, TransformerEncoder) else None
        self._seen: dict[bytes, tuple[bytes, bool]] = {}
        self._pairs: Counter[str] = Counter()
        self._taken_out: Counter[str] = Counter()

    def ratings(self, ratings: Sequence[Rating]) -> None:
        """Count the conversations of ``ratings``.

        Raises:
            BackboneError: A conversation cannot be read or is too long; the error names the row.
        """
        for number, rating in enumerate(ratings):
            self._key(rating.messages, f"rating {rating.id or number}")

    def training(self, preferences: Sequence[Preference], *, part: str = "preferences") -> list[Preference]:
        """Return ``preferences`` without answers that read the same as a better answer of the same ranking.

        An answer that occurs twice in a ranking keeps its better place. A preference with only one answer left is
        removed. Pairs cut from one ranking (:func:`facetrm.data.views.as_pairs`) are treated like the ranking.

        Args:
            preferences: Pairs and rankings.
            part: Name of this part of the data, for error messages.

        Raises:
            FitError: No preference is left.
            BackboneError: A conversation cannot be read or is too long; the error names the row.
        """
        kept: list[Preference] = []
        doubles: set[tuple[str, int]] = set()
        for number, preference in enumerate(preferences):
            again, equal = self._alike(preference, f"preference {preference.id or number}")
            self._pairs["training"] += len(preference.responses) * (len(preference.responses) - 1) // 2
            self._taken_out.update(equal)
            cut = ranking_of(preference)
            if again and cut is not None:
                doubles.add((cut[0], cut[2]))
            responses = tuple(r for n, r in enumerate(preference.responses) if n not in again)
            if len(responses) == len(preference.responses):
                kept.append(preference)
            elif len(responses) > 1:
                kept.append(preference.model_copy(update={"responses": responses}))
        if doubles:
            kept = [p for p in kept if not _has_double(p, doubles)]
        if preferences and not kept:
            raise FitError(
                f"all {len(preferences)} have answers that read the same ({_reasons(self._taken_out)})",
                place=part,
                fix="give pairs that differ in what the backbone reads, or raise backbone.max_tokens",
            )
        return kept

    def done(self, test: Sequence[Preference]) -> Reading:
        """Count the test part, and return and log all counts.

        Args:
            test: Pairs, or rankings that stand for all pairs of their answers, in the order of the test figures.

        Raises:
            BackboneError: A conversation cannot be read or is too long; the error names the row.
        """
        reasons: Counter[str] = Counter()
        equal = []
        pairs = [pair for preference in test for pair in as_pairs(preference)]
        for number, pair in enumerate(pairs):
            again, why = self._alike(pair, f"test preference {pair.id or number}")
            reasons.update(why)
            if again:
                equal.append(number)
        found = Reading(
            rows=len(self._seen),
            truncated=sum(truncated for _, truncated in self._seen.values()),
            pairs=self._pairs["training"],
            pairs_test=len(pairs),
            taken_out=dict(self._taken_out),
            equal_test=tuple(equal),
            reasons_test=dict(reasons),
        )
        log("reading", **found.to_dict())
        return found

    def _alike(self, preference: Preference, place: str) -> tuple[set[int], Counter[str]]:
        """Return the indices of answers that read the same as a better one, and the reasons of all equal pairs."""
        keys = [self._key((*preference.prompt, response), place) for response in preference.responses]
        again: set[int] = set()
        reasons: Counter[str] = Counter()
        for i, j in combinations(range(len(keys)), 2):
            if keys[i][0] != keys[j][0]:
                continue
            again.add(j)
            if preference.responses[i].content == preference.responses[j].content:
                reasons["given_equal"] += 1
            elif keys[i][1] or keys[j][1]:
                reasons["equal_after_truncation"] += 1
            else:
                reasons["read_alike"] += 1
        return again, reasons

    def _key(self, messages: Conversation, place: str) -> tuple[bytes, bool]:
        """Return a digest of the tokens of ``messages``, and whether they were truncated."""
        text = bytes.fromhex(conversation_key(messages))
        if text not in self._seen:
            if self._read is None:
                self._seen[text] = (text, False)
            else:
                before = self._read.truncated
                row = self._read(messages, place)
                digest = blake2b(row.ids.tobytes() + b"|" + row.types.tobytes(), digest_size=16).digest()
                self._seen[text] = (digest, self._read.truncated > before)
        return self._seen[text]


def _has_double(pair: Preference, doubles: set[tuple[str, int]]) -> bool:
    cut = ranking_of(pair)
    return cut is not None and bool({(cut[0], cut[1]), (cut[0], cut[2])} & doubles)


def as_ties(pairs: Pairs, equal: Sequence[int]) -> Pairs:
    """Return the pairs with identical features for both answers if they read the same.

    In fast mode, two passes of one text may differ in the last digits; that must not decide a pair.

    Args:
        pairs: Features of the pairs.
        equal: Indices of the pairs whose answers read the same.
    """
    if not equal:
        return pairs
    chosen, rejected = pairs.chosen, pairs.rejected
    tensors = {}
    for name in ("response_NAD", "length_N", "tokens_N"):
        tensor = getattr(rejected, name).clone()
        tensor[list(equal)] = getattr(chosen, name)[list(equal)]
        tensors[name] = tensor
    return replace(pairs, rejected=Features(**{**vars(rejected), **tensors}))
