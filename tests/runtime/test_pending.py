"""Results that may still be under way: waited for once, kept, joined and changed."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.errors import BuildError
from hasn_edge.runtime.pending import Pending
from tests.support.fake_session import FakeSession


def test_waits_once_and_keeps_the_result():
    calls = []

    def wait():
        calls.append(1)
        return np.arange(3)

    pending = Pending(wait)
    assert calls == []
    assert pending.result() is pending.result()
    assert calls == [1]


def test_an_error_is_raised_by_every_call():
    calls = []

    def wait():
        calls.append(1)
        raise BuildError("the device is gone")

    pending = Pending(wait)
    for _ in range(2):
        with pytest.raises(BuildError, match="the device is gone"):
            pending.result()
    assert calls == [1]


def test_join_and_change_wait_only_when_asked():
    order = []

    def part(value):
        return Pending(lambda: order.append(value) or np.full((1, 2), value))

    joined = Pending.joined(part(i) for i in range(3)).then(lambda y: y * 10)
    assert order == []
    np.testing.assert_array_equal(joined.result()[:, 0], [0, 10, 20])
    assert order == [0, 1, 2]


def test_sessions_answer_in_any_order():
    x = np.random.default_rng(0).random((3, 1, 3, 16, 16), dtype=np.float32)
    with FakeSession() as session:
        pending = [session.submit(one) for one in x]
        expected = [session.run(one) for one in x]
        for i in (2, 0, 1):
            np.testing.assert_array_equal(pending[i].result(), expected[i])
        levels = np.rint(x[0] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(session.submit_pixels(levels).result(), session.run_pixels(levels))
