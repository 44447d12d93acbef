"""Names for content."""

from __future__ import annotations

from facetrm.core.fingerprint import fingerprint, fingerprint_of_all


def test_a_stream_has_the_fingerprint_of_its_list() -> None:
    for values in ([], [1], [{"b": "ä", "a": [1.5, None]}, "x", []]):
        assert fingerprint_of_all(iter(values)) == fingerprint(values)
