"""What the backbone reads of the rows: how many lose a part, and which answers of a pair read the same.

A pair whose answers read the same says nothing about them. It is taken out of every fit. On the test part it stays and
is what it is, a tie, and the number of ties is reported with each accuracy. The reasons are told apart:

    given_equal              the two texts are equal
    equal_after_truncation   they differ, but not in what is left of them
    read_alike               they differ, but the template or the tokenizer makes the same tokens of them
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
    """What was read, and what could not be told apart.

    Attributes:
        rows: conversations, each counted once.
        truncated: number of them that lost a part to the backbone's limit of tokens.
        pairs: number of training pairs; a ranking gives every two of its answers.
        pairs_test: number of test pairs.
        taken_out: training pairs whose answers read the same, by reason; no fit has seen them.
        equal_test: numbers of such pairs in the test part, where each counts as a tie.
        reasons_test: how many of those there are, by reason.
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
        """Return what a reader of the run must know, in sentences; none where nothing was lost."""
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
    """Reads rows as a run will, and finds answers that cannot be told apart.

    Args:
        encoder: tokenises. One without tokens of its own (a bag of words) is taken to read the whole text.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._read = RowReader(encoder) if isinstance(encoder, TransformerEncoder) else None
        self._seen: dict[bytes, tuple[bytes, bool]] = {}
        self._pairs: Counter[str] = Counter()
        self._taken_out: Counter[str] = Counter()

    def ratings(self, ratings: Sequence[Rating]) -> None:
        """Count ``ratings``.

        Raises:
            BackboneError: a conversation that cannot be read or does not fit; it names the row.
        """
        for number, rating in enumerate(ratings):
            self._key(rating.messages, f"rating {rating.id or number}")

    def training(self, preferences: Sequence[Preference], *, part: str = "preferences") -> list[Preference]:
        """Return ``preferences`` without answers that read like a better one of the same ranking.

        An answer that stands twice in a ranking keeps its better place. A preference that has one answer left is taken
        out. Pairs that were cut from one ranking (:func:`facetrm.data.views.as_pairs`) are treated as the ranking is.

        Args:
            preferences: pairs and rankings.
            part: their name, for errors.

        Raises:
            FitError: nothing is left.
            BackboneError: a conversation that cannot be read or does not fit; it names the row.
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
        """Return all counts, those of the ``test`` part included, and log them.

        Args:
            test: pairs, or rankings whose every two answers are a pair, in the order of the test figures.

        Raises:
            BackboneError: a conversation that cannot be read or does not fit; it names the row.
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
        """Return the answers that read like a better one, and the reasons of all pairs that read the same."""
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
        """Return what names the tokens of ``messages``, and whether some of them were cut away."""
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
    """Return the pairs with one reading for both answers where these read the same.

    Two passes of one text may differ in the last digits (``mode: fast``); nothing may be right or wrong by that.

    Args:
        pairs: features.
        equal: numbers of the pairs whose answers read the same.
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
