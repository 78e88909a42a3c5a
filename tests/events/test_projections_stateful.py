"""After any sequence of steps, a view is the fold of its events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from returns.result import Failure, Success

from actionengine import InMemoryStorage
from actionengine.events.event import Event
from actionengine.events.projections.projection import Projection
from actionengine.events.projections.views import View
from tests.events.showing import documents_left, view_of
from tests.events.stock import add_up, folded, history, moved, stock_engine


class Interrupted(BaseException):
    pass


class Views(RuleBasedStateMachine):
    """Two tenants whose events are projected, with events that cannot be applied for a while, rebuilds that are
    interrupted, abandoned and begun again, by runners that come and go."""

    @initialize(batch_size=st.integers(1, 5))
    def begin(self, batch_size: int) -> None:
        self.storage = InMemoryStorage()
        self.engine = stock_engine(self.storage)
        self.tenants = [self.storage.create_tenant(slug=slug, name=slug) for slug in ("acme", "globex")]
        self.batch_size = batch_size
        self.is_broken = False
        self.seen = [0, 0]
        self.come_anew()

    @rule()
    def come_anew(self) -> None:
        """Continue as another process."""

        def apply(event: Event, view: View) -> None:
            add_up(event, view)
            if self.is_broken and event.payload["by"] == 13:
                raise ZeroDivisionError

        self.projection = Projection(self.engine, name="levels", apply=apply, batch_size=self.batch_size)

    @rule(which=st.integers(0, 1), item=st.sampled_from("abc"), by=st.integers(-5, 14), times=st.integers(1, 7))
    def move(self, which: int, item: str, by: int, times: int) -> None:
        moved(self.engine, self.tenants[which], item=item, by=by, times=times)

    @rule(is_broken=st.booleans())
    def break_or_repair(self, is_broken: bool) -> None:
        self.is_broken = is_broken

    @rule(which=st.integers(0, 1))
    def catch_up(self, which: int) -> None:
        answer = self.projection.catch_up(self.tenants[which])
        lag = self.projection.status(self.tenants[which]).unwrap().lag
        assert self.is_broken if isinstance(answer, Failure) else lag == 0

    @rule(which=st.integers(0, 1))
    def rebuild(self, which: int) -> None:
        before = self.projection.status(self.tenants[which]).unwrap()
        answer = self.projection.rebuild(self.tenants[which])
        after = self.projection.status(self.tenants[which]).unwrap()
        if isinstance(answer, Failure):
            assert self.is_broken
            assert after.rebuilding is not None
        else:
            assert after.generation > before.generation
            assert (after.rebuilding, after.lag) == (None, 0)
            for generation in range(1, after.generation):
                assert documents_left(self.storage, self.tenants[which], "levels", generation) == 0

    @rule(which=st.integers(0, 1), calls=st.integers(1, 4))
    def interrupt_a_rebuild(self, which: int, calls: int) -> None:
        told: list[Any] = []

        def progress(done: int, total: int) -> None:
            assert 0 <= done <= total
            told.append(done)
            if len(told) == calls:
                raise Interrupted

        try:
            answer = self.projection.rebuild(self.tenants[which], progress)
            assert isinstance(answer, Success) or self.is_broken
        except Interrupted:
            pass

    @rule(which=st.integers(0, 1))
    def abandon(self, which: int) -> None:
        was_there = self.projection.status(self.tenants[which]).unwrap().rebuilding is not None
        assert self.projection.abandon_rebuild(self.tenants[which]) == Success(was_there)

    @invariant()
    def the_views_are_the_fold_of_a_prefix_that_only_grows(self) -> None:
        for which, tenant in enumerate(self.tenants):
            position = self.projection.status(tenant).unwrap().position
            assert position >= self.seen[which]
            self.seen[which] = position
            prefix = [event for event in history(self.engine, tenant) if event.position <= position]
            assert view_of(self.storage, self.projection, tenant) == folded(prefix)


TestViews = Views.TestCase
TestViews.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@pytest.mark.soak
class TestManyViews(Views.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=2000, stateful_step_count=80, deadline=None)
