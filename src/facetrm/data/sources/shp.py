"""SHP: pairs of Reddit comments, ranked by their votes."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import number, preferred, text, user
from facetrm.data.sources.registry import Dropped, Records, source

MIN_RATIO = 2.0
MAX_PAIRS = 5


@source(
    "shp",
    hub="stanfordnlp/SHP",
    kind="preference",
    licence="MIT (as an early dataset card said); the posts are under Reddit's terms",
    citation="Ethayarajh et al. 2022, Understanding Dataset Difficulty with V-Usable Information (ICML)",
    group_by=lambda row: text(row, "post_id"),
)
def shp(rows: list[Row]) -> Records:
    """Only pairs with ``score_ratio`` > 2, and at most the first 5 per post, as in RLHFlow.

    ``labels`` is 1 if ``human_ref_A`` is the better comment.
    """
    taken = 0
    for row in rows:
        ratio, label = number(row, "score_ratio"), number(row, "labels")
        if label not in (0.0, 1.0):
            raise DataError(f"'labels' is {row['labels']!r}", fix="it must be 0 or 1")
        answers = [text(row, "human_ref_A"), text(row, "human_ref_B")]
        if ratio is None or ratio <= MIN_RATIO:
            yield Dropped("score ratio not above 2")
        elif answers[0] == answers[1]:
            yield Dropped("equal texts")
        elif taken == MAX_PAIRS:
            yield Dropped("more than 5 pairs of one post")
        else:
            taken += 1
            better, worse = answers if label == 1.0 else answers[::-1]
            subset = str(row["domain"]) if row.get("domain") else None
            yield preferred(user(text(row, "history")), better, worse, subset=subset, meta={"score_ratio": ratio})
