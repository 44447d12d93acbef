"""The store of answers: one SQLite file with one row per question, keyed by the content of the question.

An answer is committed and flushed to disk before it is used. A process killed at any moment loses only the requests in
flight. The file is locked while it is open, so two runs cannot ask the same question.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, final

from facetrm.core.errors import StoreError, short
from facetrm.label.verdicts import VERDICTS, JudgeVerdict

T = TypeVar("T")
LABELS_FILE: Final = "labels.sqlite"
_FORMAT: Final = 1
_MOST_TOKENS: Final = 10**12
_CHECK: Final = "check its permissions and the free disk space"
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
    """The answer to one question.

    Attributes:
        verdict: the verdict that was read, as text; of a labelling run ``cannot_say`` if the model refused.
        reply: the text of the reply, or of the refusal.
        model: the model name in the response.
        tokens_in: the number of prompt tokens that the server reports; 0 if it reports none.
        tokens_out: the number of completion tokens that the server reports; 0 if it reports none.
    """

    verdict: str
    reply: str
    model: str
    tokens_in: int
    tokens_out: int


@final
@dataclass(frozen=True)
class TokenCost:
    """The requests of a folder, answered or not, and their tokens. A killed run counts up to its last answer.

    Attributes:
        requests: the number of requests.
        tokens_in: the number of prompt tokens.
        tokens_out: the number of completion tokens.
    """

    requests: int
    tokens_in: int
    tokens_out: int


@final
class LabelStore:
    """The answers of one folder. Open it in a ``with`` statement.

    Args:
        folder: the folder that holds ``labels.sqlite``. Both are created if they do not exist.
        shown: the path to show in error messages; None uses the path of the file.

    Raises:
        StoreError: the file is not a store of labels, is damaged, has another format, or is open in another run.
    """

    def __init__(self, folder: Path, *, shown: Path | None = None) -> None:
        file = folder / LABELS_FILE
        self.path = file if shown is None else shown
        self._noted = TokenCost(0, 0, 0)
        self._guard(lambda: folder.mkdir(parents=True, exist_ok=True))
        self._base = self._guard(lambda: sqlite3.connect(file, timeout=0.0, isolation_level=None))
        try:
            self._guard(self._open)
        except BaseException:
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
        """Return the verdicts of all answered questions, by question key.

        Raises:
            StoreError: a stored verdict is not one of ``VERDICTS``.
        """
        found: dict[str, JudgeVerdict] = {}
        for key, verdict in self.readings().items():
            if verdict not in VERDICTS:
                problem = f"unknown verdict {short(str(verdict))}"
                raise StoreError(problem, place=self.path, fix="use another folder")
            found[key] = VERDICTS[VERDICTS.index(verdict)]
        return found

    def readings(self) -> dict[str, Any]:
        """Return what was read from the reply to each answered question, by question key, without checking it."""
        query = "SELECT key, verdict FROM answers"
        return self._guard(lambda: dict(self._base.execute(query).fetchall()))

    def models(self) -> dict[str, int]:
        """Return the number of answers by model name, as the servers report it."""
        query = "SELECT model, count(*) FROM answers GROUP BY model ORDER BY model"
        return self._guard(lambda: dict(self._base.execute(query).fetchall()))

    def put(self, answers: Mapping[str, StoredAnswer]) -> dict[str, str]:
        """Write ``answers`` in one transaction and count one request for each. They are on disk when this returns.

        A question that already has an answer keeps it.

        Args:
            answers: the answers by question key.

        Returns:
            The reasons, by question key, for answers that the database cannot hold. They are not stored, but their
            requests are counted.

        Raises:
            StoreError: the write failed; the store is unchanged.
        """
        noted, now = self._noted, time.time()
        rows, refused = [], {}
        for key, one in answers.items():
            row = (key, one.verdict, one.reply, one.model, one.tokens_in, one.tokens_out, now)
            problem = self._problem(one, row)
            if problem is None:
                rows.append(row)
            else:
                refused[key] = f"the answer cannot be stored ({problem})"
        requests = noted.requests + len(answers)
        tokens_in = noted.tokens_in + sum(answers[row[0]].tokens_in for row in rows)
        tokens_out = noted.tokens_out + sum(answers[row[0]].tokens_out for row in rows)

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
        return refused

    def _problem(self, one: StoredAnswer, row: tuple[object, ...]) -> str | None:
        """Return why the database cannot hold ``row``, or None. The test binds the row without writing it."""
        if not all(isinstance(text, str) for text in (one.verdict, one.reply, one.model)):
            return "its verdict, reply and model must be text"
        if not (_is_count(one.tokens_in) and _is_count(one.tokens_out)):
            return f"its token counts must be between 0 and {_MOST_TOKENS}"
        try:
            self._base.execute("SELECT ?, ?, ?, ?, ?, ?, ?", row).fetchone()
        except (sqlite3.Error, ArithmeticError, ValueError, TypeError) as exc:
            return f"{type(exc).__name__}: {short(str(exc))}"
        return None

    def spend(self, requests: int, *, tokens_in: int, tokens_out: int) -> None:
        """Count requests that gave no answer. They are written with the next answer.

        Args:
            requests: the number of requests.
            tokens_in: their prompt tokens; not counted if the number is impossible.
            tokens_out: their completion tokens; not counted if the number is impossible.
        """
        told = [n if _is_count(n) else 0 for n in (tokens_in, tokens_out)]
        old = self._noted
        self._noted = TokenCost(old.requests + requests, old.tokens_in + told[0], old.tokens_out + told[1])

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
            problem = f"the store has format {found}; this version reads format {_FORMAT}"
            raise StoreError(problem, place=self.path, fix="use another folder")
        self._base.execute("COMMIT")

    def _guard(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns. If it fails, roll back the transaction and raise StoreError."""
        try:
            return act()
        except Exception as exc:
            self._undo()
            raise self._error(exc) from None
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        base = getattr(self, "_base", None)
        if base is not None and base.in_transaction:
            with suppress(sqlite3.Error):
                base.execute("ROLLBACK")

    def _error(self, exc: Exception) -> StoreError:
        if isinstance(exc, StoreError):
            return exc
        said = short(str(exc), 200)[1:-1]
        if isinstance(exc, sqlite3.OperationalError):
            if "locked" in said:
                fix = "wait for that run to end, or stop it"
                return StoreError("another run has these labels open", place=self.path, fix=fix)
            return StoreError(f"cannot be used ({said})", place=self.path, fix=_CHECK)
        if isinstance(exc, sqlite3.DatabaseError):
            return StoreError(f"not a store of labels ({said})", place=self.path, fix="use another folder")
        if isinstance(exc, OSError):
            return StoreError(f"cannot be used ({exc.strerror})", place=self.path, fix=_CHECK)
        problem = f"an answer could not be written ({type(exc).__name__}: {said})"
        return StoreError(problem, place=self.path, fix="nothing was stored; run again to continue")


def _is_count(tokens: object) -> bool:
    """Return whether ``tokens`` is a number of tokens that one reply can have, and that the database can add up."""
    return isinstance(tokens, int) and 0 <= tokens <= _MOST_TOKENS


def stored_keys(folder: Path) -> set[str]:
    """Return the keys of the questions that are answered in ``folder``.

    It reads a copy, so nothing in the folder is changed and no write permission is needed.

    Args:
        folder: the folder of a labelling run.

    Returns:
        The question keys; an empty set if the folder has no store.

    Raises:
        StoreError: the file cannot be read, is not a store of labels, or has another format.
    """
    path = folder / LABELS_FILE
    try:
        if not path.exists():
            return set()
        if not path.is_file():
            raise StoreError("not a file", place=path, fix="use another folder")
        with tempfile.TemporaryDirectory() as copy:
            # A killed run leaves its last answers in the write-ahead log next to the file.
            for name in (LABELS_FILE, f"{LABELS_FILE}-wal"):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, Path(copy) / name)
            with LabelStore(Path(copy), shown=path) as store:
                return store.keys()
    except OSError as exc:
        fix = "check that it can be read, and that there is disk space for a copy"
        raise StoreError(f"cannot be read ({exc.strerror or type(exc).__name__})", place=path, fix=fix) from None
