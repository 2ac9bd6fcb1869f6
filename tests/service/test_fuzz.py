"""Malformed requests by the thousand, made from the service's own OpenAPI description: no answer is a 5xx, no process dies."""

from __future__ import annotations

import random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from tests.live import Live


@pytest.mark.parametrize("examples", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_requests_generated_from_the_schema_never_break_the_service(live: Live, examples: int) -> None:
    schema = schemathesis.openapi.from_dict(live.client.get("/openapi.json").json())
    schema.config.base_url = str(live.client.base_url)
    headers = {"Authorization": live.client.headers["Authorization"]}
    sent = 0

    for operation in schema.get_all_operations():
        method, path = operation.ok().method.upper(), operation.ok().path
        # A revoked key would end the test, an event stream waits for its job, binary uploads have their own tests.
        if method == "DELETE" or path.endswith("/events") or (method, path) in (("POST", "/datasets"), ("PUT", "/models/{name}/core")):
            continue

        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.ok().as_strategy())
        def one(case: Any) -> None:
            nonlocal sent
            sent += 1
            response = case.call(headers=headers)
            case.validate_response(response, checks=[not_a_server_error], headers=headers)

        one()

    assert sent > examples * 10
    assert live.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_random_bytes_and_mutated_bodies_never_break_the_service(live: Live, count: int) -> None:
    draw, good = (
        random.Random(0),
        b'{"model": "digits", "forget": {"kind": "samples", "ids": ["a"], "where": {"label": 3}}, "method": "auto"}',
    )
    worst = 0

    for _ in range(count):
        body = bytearray(good)
        for _ in range(draw.randint(1, 8)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        target = draw.choice(["/forget", "/models", "/keys", "/datasets?name=fuzz"])
        answer = live.client.post(target, content=bytes(body), headers={"Content-Type": "application/json"})
        worst = max(worst, answer.status_code)
        assert answer.headers["content-type"].startswith(("application/problem+json", "application/json"))

    assert worst < 500
