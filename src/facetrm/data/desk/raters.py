"""The desk's six rating sources. Each one rates some qualities on its own scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from facetrm.data.desk.qualities import QUALITIES
from facetrm.data.desk.tasks import DESK_TASKS
from facetrm.data.synthetic.raters import VERBOSITY, Rater

_ALL: Final = tuple(DESK_TASKS)
DESK_RATERS: Final = (
    Rater(
        "amber", ("correct", "working", "code", VERBOSITY), 0, 4, "integer", "higher", 1.0, ("sums", "facts", "code")
    ),
    Rater("basil", ("courteous", "fluent", "useful"), 1, 10, "integer", "higher", 0.8, _ALL),
    Rater("clover", ("declined", "honest"), 0, 1, "boolean", "higher", 1.2, ("harm", "unknown")),
    Rater("daisy", ("fluent", "persona", "topic", "instructions"), 0, 100, "continuous", "higher", 1.0, _ALL),
    Rater("ebony", ("correct", "code", "declined"), 0, 6, "integer", "lower", 0.8, ("facts", "sums", "code", "harm")),
    Rater(
        "fennel",
        ("instructions", "useful", "honest", "topic", "courteous", "persona", VERBOSITY),
        *(1, 5, "integer", "higher", 1.0),
        ("format", "mail", "advice", "persona", "unknown", "harm"),
    ),
)
DESK_MEANINGS: Final[Mapping[str, str]] = {quality.name: quality.meaning for quality in QUALITIES}
DESK_OBJECTIVES: Final = tuple(o for rater in DESK_RATERS for o in rater.objectives(DESK_MEANINGS))
QUALITY_OF: Final[Mapping[str, str]] = {o.name: o.name.split("-", 1)[1] for o in DESK_OBJECTIVES}
