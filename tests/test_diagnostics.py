"""Diagnostics: one line for each stage, spans and metrics, without any of the payload."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from returns.result import Failure, Result, Success

from actionengine import ActionContext, Actor, Engine, RequestContext, Tenant, create_action
from tests.conftest import Execute


def nesting(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return ctx.execute("work", "inner", data)


@pytest.fixture
def engine(engine_of: Callable[..., Engine]) -> Engine:
    return engine_of(
        create_action(name="outer", description="", handler=nesting),
        create_action(name="inner", description="", handler=lambda data: Success(data)),
        create_action(name="fails", description="", handler=lambda data: Failure("word-of-the-payload")),
        diagnostics=True,
    )


def test_each_stage_writes_one_structured_line(
    engine: Engine, execute: Execute, acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    context = RequestContext(tenant=acme, actor=Actor.ai("bot"), request_id="r-1", idempotency_key="k")
    with caplog.at_level(logging.INFO, "actionengine"):
        execute(engine, "work.outer", {"word": "of-the-payload"}, context)
    lines: list[Any] = [record.__dict__["actionengine"] for record in caplog.records]
    outer = [line["stage"] for line in lines if line["action"] == "work.outer"]
    inner = [line["stage"] for line in lines if line["action"] == "work.inner"]
    assert outer == ["authorize", "validate", "claim", "handler", "record", "commit"]
    assert inner == ["authorize", "validate", "handler"]
    assert {line["status"] for line in lines} == {"ok"}
    assert all(line["duration_us"] >= 0 for line in lines)
    assert {(line["tenant"], line["actor_type"], line["request_id"]) for line in lines} == {("acme", "ai", "r-1")}
    assert "stage=commit status=ok" in caplog.text
    assert "of-the-payload" not in caplog.text


def test_a_stage_that_refuses_says_its_code(engine: Engine, execute: Execute, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "actionengine"):
        execute(engine, "work.fails", {})
    assert "stage=handler status=unprocessable" in caplog.text
    assert "word-of-the-payload" not in caplog.text


def test_without_diagnostics_nothing_is_written(
    engine_of: Callable[..., Engine], execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(create_action(name="go", description="", handler=lambda data: Success(data)))
    with caplog.at_level(logging.INFO, "actionengine"):
        execute(engine, "work.go", {})
    assert caplog.records == []


@pytest.fixture(scope="module")
def telemetry() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


def test_stages_are_spans_and_metrics(
    telemetry: tuple[InMemorySpanExporter, InMemoryMetricReader], engine: Engine, execute: Execute
) -> None:
    spans, reader = telemetry
    spans.clear()
    execute(engine, "work.outer", {"word": "of-the-payload"})
    execute(engine, "work.fails", {})
    finished = spans.get_finished_spans()
    handlers = {
        span.attributes["actionengine.action"]: span
        for span in finished
        if span.name == "actionengine.handler" and span.attributes
    }
    inner, outer, fails = (handlers[name] for name in ("work.inner", "work.outer", "work.fails"))
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert fails.status.description == "unprocessable"
    assert all("of-the-payload" not in span.to_json() for span in finished)
    data = reader.get_metrics_data()
    assert data is not None
    names = {m.name for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
    assert names - {"actionengine.cache.bytes"} == {"actionengine.stage.duration"}


def test_diagnostics_work_without_opentelemetry() -> None:
    code = """
import logging, sys
sys.modules["opentelemetry"] = None
from returns.result import Success
from actionengine import *
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
go = create_action(name="go", description="", handler=Success)
storage = InMemoryStorage()
engine = create_engine(services=[create_service(name="s", description="", actions=[go])], storage=storage,
                       diagnostics=True)
tenant = storage.create_tenant(slug="a", name="A")
print(engine.execute_action("s", "go", 1, RequestContext(tenant=tenant, actor=Actor.system())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stage=handler status=ok" in done.stdout
    assert "<Success: 1>" in done.stdout
