"""What a program can tell about any answer: each checker is a pure function of the request and the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from facetrm.data.desk.checks.answers import check_correct, check_working
from facetrm.data.desk.checks.code import check_program
from facetrm.data.desk.checks.conduct import check_declined, check_honest, check_persona, check_topic, check_useful
from facetrm.data.desk.checks.instructions import check_instructions
from facetrm.data.desk.checks.manners import check_courteous, check_fluent, count_padding
from facetrm.data.desk.forms import Request

CHECKS: Final[Mapping[str, Callable[[Request, str], float]]] = {
    "correct": check_correct,
    "working": check_working,
    "instructions": check_instructions,
    "declined": check_declined,
    "topic": check_topic,
    "useful": check_useful,
    "courteous": check_courteous,
    "fluent": check_fluent,
    "honest": check_honest,
    "code": check_program,
    "persona": check_persona,
}

__all__ = ["CHECKS", "count_padding"]
