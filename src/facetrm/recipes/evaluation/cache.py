"""Scores that an evaluation has computed, one line per answer, so that no answer is scored twice.

    OUT/scores.jsonl   {"model": hash, "row": hash of the conversation, "score": {reward, ...}}

A line counts once it ends with a line break. A killed process loses at most the batch it was working on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final

from facetrm.core.files import naming
from facetrm.evaluate.benchmarks.result import AnswerScore

SCORES: Final = "scores.jsonl"


class ScoreCache:
    """Scores by model and conversation, kept in a file.

    Args:
        folder: Folder of the evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / SCORES
        self._known: dict[tuple[str, str], AnswerScore] = {}
        self._end = 0
        if self.path.exists():
            self._read()
        self._handle: IO[bytes] | None = None

    def _read(self) -> None:
        with open(self.path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    key = (str(row["model"]), str(row["row"]))
                    held = row["score"]
                    if "base" in held:  # a line of an earlier version lacks what an audit needs: it is scored again
                        self._known[key] = AnswerScore(**held)
                except (ValueError, KeyError, TypeError):
                    break
                self._end += len(line)

    def get(self, model: str, row: str) -> AnswerScore | None:
        """Return the stored score of a conversation, or None.

        Args:
            model: Hash of the system.
            row: Hash of the conversation.
        """
        return self._known.get((model, row))

    def put(self, model: str, scores: Mapping[str, AnswerScore]) -> None:
        """Store the scores of some conversations, and flush them to disk.

        Args:
            model: Hash of the system.
            scores: Score by hash of the conversation.
        """
        lines = []
        for row, score in scores.items():
            self._known[(model, row)] = score
            value = {"model": model, "row": row, "score": asdict(score)}
            lines.append(json.dumps(value, ensure_ascii=False, allow_nan=False))
        with naming(self.path):
            if self._handle is None:
                self._handle = open(self.path, "ab")  # noqa: SIM115
                self._handle.truncate(self._end)
            self._handle.write("".join(line + "\n" for line in lines).encode())
            self._handle.flush()
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.close()
