"""Everything that the API's description allows, asked of the service: no fault, and no answer that is not described."""

import os

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from schemathesis.checks import CHECKS, load_all_checks

from tests.service.conftest import HOST

load_all_checks()
STARTS_PROCESSES = "POST /v1/runs"  # what may come of it is held by test_server.py
CHECKED = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
EXAMPLES = int(os.environ.get("WAFER_EXAMPLES", "30"))  # of each route


@pytest.mark.slow
def test_nothing_that_is_allowed_is_a_fault(client: TestClient) -> None:
    """Every route with all sorts of requests that its description has, and with what it excludes."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    seen: set[str] = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.label == STARTS_PROCESSES:
            continue
        seen.add(operation.label)
        modes = [operation.as_strategy(mode) for mode in schemathesis.GenerationMode]

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=some.one_of(modes))
        def holds(case: schemathesis.Case) -> None:
            sent = case.as_transport_kwargs(base_url=HOST)
            data = sent.pop("data", None)
            told = client.request(**sent, **({} if data is None else {"content": data}), follow_redirects=False)
            case.validate_response(told, checks=CHECKED)

        holds()
    assert len(seen) > 30
