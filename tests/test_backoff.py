from itertools import accumulate, repeat

from hypothesis import given
from hypothesis import strategies as st

from actionengine.concurrency.backoff import delay, equal_jitter, full_jitter, next_delay

seconds = st.floats(0, 1e6)


@given(st.integers(1, 10**6), seconds, seconds)
def test_delays_grow_up_to_their_bound(attempt: int, first: float, longest: float) -> None:
    assert 0 <= delay(attempt, first, longest) <= delay(attempt + 1, first, longest) <= longest


@given(st.integers(0, 50), st.floats(0.001, 10), st.floats(10, 1e6))
def test_a_delay_follows_from_the_one_before(attempts: int, first: float, longest: float) -> None:
    steps = accumulate(repeat(None, attempts), lambda wait, _: next_delay(wait, longest), initial=first)
    assert list(steps) == [delay(attempt, first, longest) for attempt in range(1, attempts + 2)]


@given(seconds)
def test_jitter_only_shortens_a_delay(wait: float) -> None:
    assert 0 <= full_jitter(wait) <= wait
    assert wait / 2 <= equal_jitter(wait) <= wait
