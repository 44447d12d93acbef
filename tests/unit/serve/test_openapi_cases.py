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

from facetrm.serve.keys import KnownKey, key_digest
from serving import exact_toy, reward_server

KEY = {"Authorization": "Bearer open"}
CASES = int(os.environ.get("FACETRM_CASES", "10"))
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    keys = [KnownKey("tests", key_digest("open"))]
    with reward_server(lambda: exact_toy(mode="fast"), max_wait_ms=0.0, max_answers=16, keys=keys) as client:
        loaded = schemathesis.openapi.from_url(f"{client.url}/openapi.json", headers=KEY)
        loaded.config.update(base_url=client.url)
        yield loaded


def document(*keys: KnownKey) -> Any:
    with reward_server(keys=keys) as client:
        return client.get("/openapi.json", **KEY).value


def test_the_document_says_who_may_ask() -> None:
    with_keys, without = document(KnownKey("tests", key_digest("open"))), document()
    [(name, scheme)] = with_keys["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert with_keys["security"] == [{name: []}]
    assert "Every route but /health and /ready needs a key." in with_keys["info"]["description"]
    assert "This server asks for no key." in without["info"]["description"]
    assert "security" not in without
    assert "securitySchemes" not in without["components"]
    for path, operations in with_keys["paths"].items():
        [operation] = operations.values()
        said = operation["responses"]
        if path in ("/health", "/ready"):
            assert operation["security"] == []
            assert not {"401", "429"} & set(said)
            continue
        assert "security" not in operation
        assert set(said["401"]["headers"]) == {"WWW-Authenticate"}
        assert set(said["429"]["headers"]) == {"Retry-After"}
        headers = [one["name"] for one in operation.get("parameters", []) if one["in"] == "header"]
        assert headers == (["X-Timeout-Seconds"] if "504" in said else []), path
    assert "504" in with_keys["paths"]["/v1/explain"]["post"]["responses"]
    for path in ("/v1/rewards", "/v1/explain", "/v1/best-of"):
        body = with_keys["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert with_keys["components"]["schemas"][body.rpartition("/")[2]]["examples"], path


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
                response = case.call(headers=KEY)
                seen[response.status_code] += 1
                hurried = response.status_code == 504 and "X-Timeout-Seconds" in case.headers
                assert response.status_code < 500 or hurried, response.text
                case.validate_response(response, checks=CHECKS)

            if operation.body or mode is schemathesis.GenerationMode.POSITIVE:
                answered()
    assert seen[200] > CASES
    assert seen[422] > CASES
