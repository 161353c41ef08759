"""Nothing at the Hub is waited for without end."""

from __future__ import annotations

import time

import pytest

from ft_toolkit.network import Late, step_seconds, within


def test_a_step_has_two_minutes_and_ten_seconds_a_megabyte() -> None:
    assert (step_seconds(), step_seconds(11_000_000)) == (120, 230)


def test_what_ends_in_time_gives_its_answer_or_its_own_error() -> None:
    assert within(5, lambda: "here") == "here"
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="its own"):
        within(5, lambda: (_ for _ in ()).throw(TimeoutError("its own")))


def test_what_does_not_end_is_left_and_whoever_waits_is_told() -> None:
    told: list[float] = []
    started = time.monotonic()
    with pytest.raises(Late, match="expected an answer within 2 s, found none"):
        within(1.5, lambda: time.sleep(30), told.append)
    assert 1.5 <= time.monotonic() - started < 10 and told and told == sorted(told)
