"""The store of answers: one SQLite file, one row for each question, named by the question's content.

An answer is committed, and flushed to the disk, before anything else happens with it: a process killed at any moment
loses what was in flight and nothing more. The file is locked while it is open, so two runs cannot ask the same twice.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar, final

from facetrm.core.errors import StoreError
from facetrm.label.verdicts import VERDICTS, JudgeVerdict

T = TypeVar("T")
LABELS_FILE: Final = "labels.sqlite"
_FORMAT: Final = 1
_TABLES: Final = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, verdict TEXT NOT NULL, reply TEXT NOT NULL, model TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, time REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE spent (requests INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL);
INSERT INTO spent VALUES (0, 0, 0);
"""


@final
@dataclass(frozen=True)
class StoredAnswer:
    """What was said to one question.

    Attributes:
        verdict: as read; ``cannot_say`` for a refusal too.
        reply: the text, or why there is none.
        model: as the server names what it runs.
        tokens_in, tokens_out: as the server counts them; 0 where it does not.
    """

    verdict: JudgeVerdict
    reply: str
    model: str
    tokens_in: int
    tokens_out: int


@final
@dataclass(frozen=True)
class TokenCost:
    """All requests of a folder, answered or not, and their tokens; of a killed run, those up to its last answer."""

    requests: int
    tokens_in: int
    tokens_out: int


@final
class LabelStore:
    """The answers of one folder: open it in a ``with`` statement.

    Args:
        folder: where ``labels.sqlite`` is, or will be.

    Raises:
        StoreError: the file is none of ours, is damaged or of another format, or another run has it open.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LABELS_FILE
        self._noted = TokenCost(0, 0, 0)
        folder.mkdir(parents=True, exist_ok=True)
        self._base = self._guard(lambda: sqlite3.connect(self.path, timeout=0.0, isolation_level=None))
        try:
            self._guard(self._open)
        except StoreError:
            self._base.close()
            raise

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, StoreError):
                self.put({})
        finally:
            self._base.close()

    def keys(self) -> set[str]:
        """Return the keys of all answered questions."""
        return self._guard(lambda: {row[0] for row in self._base.execute("SELECT key FROM answers")})

    def verdicts(self) -> dict[str, JudgeVerdict]:
        """Return question key -> verdict.

        Raises:
            StoreError: a verdict that none of ours is.
        """
        found: dict[str, JudgeVerdict] = {}
        for key, verdict in self._guard(lambda: self._base.execute("SELECT key, verdict FROM answers").fetchall()):
            if verdict not in VERDICTS:
                raise StoreError(f"the verdict {verdict!r}", place=self.path, fix="use another folder")
            found[key] = verdict
        return found

    def models(self) -> dict[str, int]:
        """Return the models that answered, as their servers name them, with the number of answers."""
        query = "SELECT model, count(*) FROM answers GROUP BY model ORDER BY model"
        return self._guard(lambda: dict(self._base.execute(query).fetchall()))

    def put(self, answers: Mapping[str, StoredAnswer]) -> None:
        """Keep ``answers`` by the keys of their questions, all or none, and count a request for each.

        The first answer to a question stands. When this returns they are on the disk.
        """
        noted, now = self._noted, time.time()
        requests = noted.requests + len(answers)
        tokens_in = noted.tokens_in + sum(answer.tokens_in for answer in answers.values())
        tokens_out = noted.tokens_out + sum(answer.tokens_out for answer in answers.values())
        rows = [
            (key, one.verdict, one.reply, one.model, one.tokens_in, one.tokens_out, now) for key, one in answers.items()
        ]

        def write() -> None:
            self._base.execute("BEGIN IMMEDIATE")
            self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._base.execute(
                "UPDATE spent SET requests = requests + ?, tokens_in = tokens_in + ?, tokens_out = tokens_out + ?",
                (requests, tokens_in, tokens_out),
            )
            self._base.execute("COMMIT")

        self._guard(write)
        self._noted = TokenCost(0, 0, 0)

    def spend(self, requests: int, *, tokens_in: int, tokens_out: int) -> None:
        """Note ``requests`` without an answer, and their ``tokens_in`` and ``tokens_out``, until the next write."""
        old = self._noted
        self._noted = TokenCost(old.requests + requests, old.tokens_in + tokens_in, old.tokens_out + tokens_out)

    def spent(self) -> TokenCost:
        """Return what this folder has cost so far."""
        query = "SELECT requests, tokens_in, tokens_out FROM spent"
        written = self._guard(lambda: TokenCost(*self._base.execute(query).fetchone()))
        noted = self._noted
        return TokenCost(
            written.requests + noted.requests,
            written.tokens_in + noted.tokens_in,
            written.tokens_out + noted.tokens_out,
        )

    def _open(self) -> None:
        self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        self._base.execute("BEGIN IMMEDIATE")
        found = self._base.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and not self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _TABLES.split(";")[:-1]:
                self._base.execute(statement)
            self._base.execute(f"PRAGMA user_version = {_FORMAT}")
        elif found != _FORMAT:
            raise StoreError(f"a store of format {found}, not {_FORMAT}", place=self.path, fix="use another folder")
        self._base.execute("COMMIT")

    def _guard(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc):
                fix = "wait for it to end, or stop it; two runs would ask the same twice"
                raise StoreError("another run has these labels open", place=self.path, fix=fix) from None
            raise StoreError(f"cannot be used ({exc})", place=self.path, fix="check its rights and the space") from None
        except sqlite3.DatabaseError as exc:
            raise StoreError(f"no store of labels ({exc})", place=self.path, fix="use another folder") from None


def stored_keys(folder: Path) -> set[str]:
    """Return the keys of the answers in ``folder``, none where there is no store; nothing is made.

    Raises:
        StoreError: see :class:`LabelStore`.
    """
    if not (folder / LABELS_FILE).exists():
        return set()
    with LabelStore(folder) as store:
        return store.keys()
