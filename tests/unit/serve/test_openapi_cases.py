"""Generated requests over the OpenAPI document: no answer is a fault of the server, and each is as documented.

``FACETRM_CASES=2000`` tries that many requests for each route.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving import exact_toy, reward_server

CASES = int(os.environ.get("FACETRM_CASES", "10"))
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    with reward_server(lambda: exact_toy(mode="fast"), max_wait_ms=0.0, max_answers=16) as client:
        loaded = schemathesis.openapi.from_url(f"{client.url}/openapi.json")
        loaded.config.update(base_url=client.url)
        yield loaded


@pytest.mark.slow
def test_every_answer_is_documented_and_none_is_a_fault(api: Any) -> None:
    seen = Counter[int]()
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:
        for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:

            @seed(0)
            @settings(
                max_examples=CASES,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def answered(case: Any) -> None:
                response = case.call()
                seen[response.status_code] += 1
                assert response.status_code < 500, response.text
                case.validate_response(response, checks=CHECKS)

            if operation.body or mode is schemathesis.GenerationMode.POSITIVE:
                answered()
    assert seen[200] > CASES
    assert seen[422] > CASES
