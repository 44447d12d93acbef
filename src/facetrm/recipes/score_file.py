"""Write scores to a file as they are computed. If scoring stops, the same command resumes it.

    OUT                  all scores; it appears only when it is complete
    OUT.partial          the scores so far
    .OUT.partial.index   the model and its reading settings, then one line per finished chunk of rows
    OUT.skipped.jsonl    the rows that could not be scored, with the reason (OUT without its .jsonl)

A chunk is finished once the index lists it. Its scores are reused if the model and the rows of the chunk have not
changed, so that later rows may be corrected between two attempts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from facetrm.core.errors import DataError, StoreError
from facetrm.core.files import keep_mode, naming, open_stream, regular_target, sync_folder, write_text
from facetrm.core.fingerprint import fingerprint
from facetrm.core.locks import sole_writer
from facetrm.core.printed import print_json
from facetrm.core.progress import Meter, log, progress
from facetrm.data.read.conversations import RefusedRow, ScoringRow
from facetrm.data.read.files import side_file
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.scoring import ScoredChunk, check_lower_bound, chunks, score_chunk, score_rows

ChunkScorer: TypeAlias = Callable[[Sequence[ScoringRow | RefusedRow]], ScoredChunk]

_KEPT: Final = 180  # characters of the file's name that are kept in the names of the files beside it
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class ScoreCount:
    """The result of scoring a file.

    Attributes:
        scores: Number of scores in the file.
        found: Number of these scores that an earlier run had computed.
        skipped: Number of rows that were skipped.
        side: File of the skipped rows.
    """

    scores: int
    found: int
    skipped: int
    side: Path


def write_scores(
    model: RewardModel,
    rows: Iterable[ScoringRow | RefusedRow],
    out: Path,
    *,
    skip: bool = False,
    data: Path,
    lower_bound: float | None = None,
) -> ScoreCount:
    """Score rows and write one JSON line per answer, in order.

    Args:
        model: Model that scores the rows.
        rows: Rows to score; they may be a stream.
        out: Output file. If it is a device or a pipe, scores are written to it directly, and cannot be resumed.
        skip: Whether to skip rows that cannot be scored and write them to the side file, instead of raising an error.
        data: File of the rows. It gives the side file its name if ``out`` is not a regular file.
        lower_bound: Number of standard deviations below the reward for a field ``lower_bound``; None for no field.

    Raises:
        ModelError: The model cannot tell the deviation of a reward.
        StoreError: Another process writes this file.
        DataError: A row has no conversation, or no row can be scored.
        BackboneError: A conversation cannot be read; the error names the row.
        OSError: A file cannot be written, for example because the disk is full; the error names the file.
    """
    check_lower_bound(model, lower_bound)
    score = partial(score_chunk, model, skip=skip, lower_bound=lower_bound)
    with naming(out):
        direct = open_stream(out)
        if direct is not None:
            with direct as handle:
                return _stream(score, rows, handle, side=side_file(data))
        target = regular_target(out)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(out))
        target.parent.mkdir(parents=True, exist_ok=True)
        with _held(target, out), progress("score", None) as meter:
            question = _question(model, lower_bound)
            return _continued(score, rows, target, question=question, skip=skip, meter=meter)


@contextmanager
def _held(target: Path, out: Path) -> Iterator[None]:
    fix = "wait for it to end, stop it, or give another file (--out)"
    with sole_writer(target.parent, name=f".{target.name[:_KEPT]}.lock", place=out, fix=fix):
        yield


def _stream(
    score: ChunkScorer, rows: Iterable[ScoringRow | RefusedRow], handle: IO[bytes], *, side: Path
) -> ScoreCount:
    count, skipped = 0, []
    with progress("score", None) as meter:
        for part in chunks(rows):
            found = score(part)
            handle.write(_score_lines(found.scores))
            handle.flush()
            count += len(found.scores)
            skipped += found.skipped
            meter.advance(len(found.scores), tokens=found.tokens)
    return _finish_skipped(ScoreCount(count, 0, len(skipped), side), skipped)


def print_scores(
    model: RewardModel,
    rows: Iterable[ScoringRow | RefusedRow],
    *,
    skip: bool = False,
    data: Path,
    lower_bound: float | None = None,
) -> ScoreCount:
    """Score rows and print one JSON line per answer to standard output, chunk by chunk.

    Args:
        model: Model that scores the rows.
        rows: Rows to score; they may be a stream.
        skip: Whether to skip rows that cannot be scored and write them to the side file, instead of raising an error.
        data: File of the rows, which gives the side file its name.
        lower_bound: Number of standard deviations below the reward for a field ``lower_bound``; None for no field.

    Raises:
        ModelError: The model cannot tell the deviation of a reward.
        DataError: A row has no conversation, or no row can be scored.
        BackboneError: A conversation cannot be read; the error names the row.
    """
    check_lower_bound(model, lower_bound)
    skipped: list[dict[str, Any]] = []
    count = 0
    for row in score_rows(model, rows, quiet=True, skipped=skipped if skip else None, lower_bound=lower_bound):
        print_json(row)
        count += 1
    return _finish_skipped(ScoreCount(count, 0, len(skipped), side_file(data)), skipped)


def _finish_skipped(count: ScoreCount, skipped: Sequence[Mapping[str, Any]]) -> ScoreCount:
    """Write the skipped rows, if any, to the side file, and return ``count``.

    Args:
        count: Result of the scoring.
        skipped: Skipped rows, with reasons.

    Raises:
        DataError: No row could be scored.
    """
    if skipped and not count.scores:
        problem = f"none of {len(skipped)} rows can be scored; the first: {str(skipped[0]['reason'])[:500]}"
        raise DataError(problem, fix="check the columns and the model's maximum length")
    if skipped:
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in skipped)
        write_text(count.side, "".join(lines).encode("utf-8", errors="backslashreplace").decode("utf-8"))
    return count


def _continued(
    score: ChunkScorer,
    rows: Iterable[ScoringRow | RefusedRow],
    target: Path,
    *,
    question: str,
    skip: bool,
    meter: Meter,
) -> ScoreCount:
    """Score into the partial file, from the first chunk that it lacks, and rename it to ``target``."""
    name = target.name[:_KEPT]
    beside = _Partial(target.with_name(f"{name}.partial"), target.with_name(f".{name}.partial.index"))
    beside.open(question)
    try:
        for part in chunks(rows):
            known = beside.next_done(_key(part), skip=skip)
            if known is not None:
                meter.skip(known)
                continue
            found = score(part)
            beside.append(_key(part), found.scores, found.skipped)
            meter.advance(len(found.scores), tokens=found.tokens)
        count = ScoreCount(beside.scores, beside.found, len(beside.skipped), side_file(target))
        if skip and not count.skipped:
            count.side.unlink(missing_ok=True)  # from an earlier run
        _finish_skipped(count, beside.skipped)
        beside.become(target)
    except BaseException:
        beside.stop()
        raise
    return count


class _Partial:
    """The scores so far and their index. The first chunks may come from an earlier run."""

    def __init__(self, path: Path, index: Path) -> None:
        self.path, self.index = path, index
        self.scores = self.found = self._end = 0
        self.skipped: list[dict[str, Any]] = []
        self._taken: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._written = False

    def open(self, question: str) -> None:
        """Open both files, and reuse their chunks if they belong to the same ``question``."""
        self._header = {"question": question}
        self._handle = _open_own(self.path)
        try:
            self._journal = _open_own(self.index)
        except BaseException:
            self._handle.close()
            raise
        header, *done = _entries(self._journal) or [{}]
        size = os.fstat(self._handle.fileno()).st_size
        if header == self._header:
            self._waiting = [one for one in done if one["end"] <= size]
        elif size:
            log("earlier scores not reused", file=str(self.path), reason="another model or other reading settings")

    def next_done(self, key: str, *, skip: bool) -> int | None:
        """Return the number of reusable scores of the next chunk; None if this and all later chunks have none."""
        if not self._waiting:
            return None
        first = self._waiting.pop(0)
        if first["key"] != key or (first["skipped"] and not skip):
            log("earlier scores not reused from here on", scores=self.scores, reason="the rows changed")
            self._waiting = []
            return None
        self._taken.append(first)
        self._count(first)
        self.found += first["scores"]
        return int(first["scores"])

    def append(self, key: str, scores: Sequence[Mapping[str, Any]], skipped: list[dict[str, Any]]) -> None:
        """Write the scores of one more chunk, then the line of the index that marks it as finished."""
        with naming(self.path):
            if not self._written:
                self._write_index([self._header, *self._taken], at=0)
            self._handle.truncate(self._end)
            self._handle.seek(self._end)
            self._handle.write(_score_lines(scores))
            self._handle.flush()
            os.fsync(self._handle.fileno())
            entry = {"key": key, "scores": len(scores), "skipped": skipped, "end": self._handle.tell()}
            self._write_index([entry], at=self._journal_end)
        self._count(entry)

    def become(self, target: Path) -> None:
        """Rename the partial file to ``target``, and remove the index."""
        with naming(target):
            self._handle.truncate(self._end)
            keep_mode(target, self._handle.fileno())
            os.fsync(self._handle.fileno())
            self._handle.close()
            self._journal.close()
            os.replace(self.path, target)
            sync_folder(target.parent)
            self.index.unlink(missing_ok=True)

    def stop(self) -> None:
        """Close both files; keep them if they hold a finished chunk."""
        for handle in (self._handle, self._journal):
            with suppress(OSError):  # such as a full disk, which the current exception already reports
                handle.close()
        with suppress(OSError):
            if self._written:
                os.truncate(self.path, self._end)
            if self.path.stat().st_size == 0:
                self.path.unlink()
                self.index.unlink()
            elif self.scores:
                log("scores so far", kept=self.scores, file=str(self.path), go_on="run the same command again")

    def _count(self, entry: dict[str, Any]) -> None:
        self.scores += entry["scores"]
        self.skipped += entry["skipped"]
        self._end = entry["end"]

    def _write_index(self, lines: Sequence[dict[str, Any]], *, at: int) -> None:
        self._written = True
        self._journal.seek(at)
        self._journal.truncate()
        text = "".join(json.dumps(line, default=str) + "\n" for line in lines)
        self._journal.write(text.encode())
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._journal_end = self._journal.tell()


def _open_own(path: Path) -> IO[bytes]:
    """Open one of our files for reading and writing; create it if it does not exist.

    Raises:
        StoreError: The file belongs to another user or has another name as well, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0), 0o666)
    about = os.fstat(descriptor)
    foreign = hasattr(os, "geteuid") and about.st_uid != os.geteuid()
    if foreign or not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(descriptor)
        raise StoreError("not a file of facetrm's scores", place=path, fix="remove it, or give another file (--out)")
    return open(path, "r+b", opener=lambda _, flags: descriptor)


def _entries(journal: IO[bytes]) -> list[dict[str, Any]]:
    """Return the valid lines of an index, up to the first invalid one."""
    found: list[dict[str, Any]] = []
    one: Any
    for line in journal:
        try:
            one = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            break
        whole = isinstance(one, dict) and (
            isinstance(one.get("question"), str)
            if not found
            else isinstance(one.get("key"), str)
            and isinstance(one.get("skipped"), list)
            and all(isinstance(one.get(name), int) for name in ("scores", "end"))
        )
        if not whole:
            break
        found.append(one)
    return found


def _question(model: RewardModel, lower_bound: float | None) -> str:
    """Return a fingerprint of everything known to affect a line, down to its last digit."""
    spec = model.encoder.spec()
    asked = [model.hash, model.encoder.mode, {k: spec.get(k) for k in ("device", "token_budget", "compile")}]
    return fingerprint(asked if lower_bound is None else [*asked, lower_bound])


def _key(part: Sequence[ScoringRow | RefusedRow]) -> str:
    """Return a fingerprint of the rows of a chunk; equal rows have equal scores."""
    digest = hashlib.sha256()
    for row in part:
        told = row.to_dict() if isinstance(row, ScoringRow) else {"refused": str(row.error)}
        digest.update(json.dumps(told, ensure_ascii=True, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _score_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
