"""The store of answers: one SQLite file, one row for each question, named by the question's content.

An answer is committed, and flushed to the disk, before anything else happens with it: a process killed at any moment
loses what was in flight and nothing more. The file is locked while it is open, so two runs cannot ask the same twice.
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
from typing import Final, TypeVar, final

from facetrm.core.errors import StoreError, short
from facetrm.label.verdicts import VERDICTS, JudgeVerdict

T = TypeVar("T")
LABELS_FILE: Final = "labels.sqlite"
_FORMAT: Final = 1
_MOST_TOKENS: Final = 10**12
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
        tokens_in: tokens of the question, by the server's count; 0 without one.
        tokens_out: tokens of the reply, by the server's count; 0 without one.
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
        shown: the file's name in messages, where it is not that in the folder.

    Raises:
        StoreError: the file is none of ours, is damaged or of another format, or another run has it open.
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

    def put(self, answers: Mapping[str, StoredAnswer]) -> dict[str, str]:
        """Keep ``answers`` by the keys of their questions, all or none, and count a request for each.

        The first answer to a question stands. When this returns they are on the disk.

        Args:
            answers: question key -> answer.

        Returns:
            Question key -> why the database cannot hold that answer. It is not kept; its request counts.

        Raises:
            StoreError: nothing could be written; the store is as it was.
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
        """Return why the database cannot hold ``row``: it is asked to bind it, which writes nothing."""
        if not all(isinstance(text, str) for text in (one.verdict, one.reply, one.model)):
            return "its texts are not texts"
        if not all(isinstance(n, int) and 0 <= n <= _MOST_TOKENS for n in (one.tokens_in, one.tokens_out)):
            return "its numbers of tokens cannot be"
        try:
            self._base.execute("SELECT ?, ?, ?, ?, ?, ?, ?", row).fetchone()
        except (sqlite3.Error, ArithmeticError, ValueError, TypeError) as exc:
            return f"{type(exc).__name__}: {short(str(exc))}"
        return None

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
        """Return what ``act`` returns; whatever fails in it leaves no half of a change, and is an error of ours."""
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
                fix = "wait for it to end, or stop it; two runs would ask the same twice"
                return StoreError("another run has these labels open", place=self.path, fix=fix)
            return StoreError(f"cannot be used ({said})", place=self.path, fix="check its rights and the space")
        if isinstance(exc, sqlite3.DatabaseError):
            return StoreError(f"no store of labels ({said})", place=self.path, fix="use another folder")
        if isinstance(exc, OSError):
            return StoreError(f"cannot be used ({exc.strerror})", place=self.path, fix="check its rights and the space")
        problem = f"what was to be written does not fit ({type(exc).__name__}: {said})"
        return StoreError(problem, place=self.path, fix="nothing of it was kept; run again to go on")


def stored_keys(folder: Path) -> set[str]:
    """Return the keys of the answers in ``folder``, none where there is no store.

    It reads a copy: nothing is made or changed in the folder, and no right to write there is needed.

    Raises:
        StoreError: see :class:`LabelStore`; or the file cannot be read.
    """
    path = folder / LABELS_FILE
    try:
        if not path.exists():
            return set()
        if not path.is_file():
            raise StoreError("not a file", place=path, fix="use another folder")
        with tempfile.TemporaryDirectory() as copy:
            # A run that was killed leaves its last answers in the log beside the file.
            for name in (LABELS_FILE, f"{LABELS_FILE}-wal"):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, Path(copy) / name)
            with LabelStore(Path(copy), shown=path) as store:
                return store.keys()
    except OSError as exc:
        fix = "check that it can be read, and that there is room for a copy of it"
        raise StoreError(f"cannot be read ({exc.strerror or type(exc).__name__})", place=path, fix=fix) from None
