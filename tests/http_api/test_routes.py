"""Routes of actions, and payloads of requests to them."""

from __future__ import annotations

from typing import Any

import pytest

from actionengine.http import HTTPRoute, action_routes, by_path, payload_of
from tests.catalogue.test_built_in import built_in

ENGINE = built_in()


def test_each_action_has_one_route_by_its_name() -> None:
    routes = action_routes(ENGINE, prefix="/v1")
    names = [(each.name, action) for each in ENGINE.get_services().unwrap() for action in each.actions]
    assert [(route.service, route.action) for route in routes] == names
    assert {route.method for route in routes} == {"POST"}
    assert HTTPRoute("POST", "/v1/approvals/approve", "approvals", "approve") in routes
    assert len({route.path for route in routes}) == len(routes)


def test_routes_of_one_path_are_together() -> None:
    read, write = HTTPRoute("GET", "/jobs", "jobs", "list"), HTTPRoute("POST", "/jobs", "jobs", "create")
    one = HTTPRoute("GET", "/jobs/{id}", "jobs", "get")
    assert by_path([read, one, write]) == {"/jobs": {"GET": read, "POST": write}, "/jobs/{id}": {"GET": one}}


@pytest.mark.parametrize(
    ("path", "query", "body", "payload"),
    [
        ({}, {}, {}, {}),
        ({"id": "1"}, {"id": "2", "limit": "5"}, {"id": "3", "name": "x"}, {"id": "1", "limit": "5", "name": "x"}),
        ({}, {"name": "query"}, {"name": "body"}, {"name": "body"}),
        ({"id": "1"}, {"limit": "5"}, [1], [1]),
        ({"id": "1"}, {"limit": "5"}, None, None),
    ],
)
def test_a_payload_is_the_query_the_body_and_the_path(path: Any, query: Any, body: Any, payload: Any) -> None:
    assert payload_of(path, query, body) == payload
