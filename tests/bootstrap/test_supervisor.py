from typing import Any

import pytest

from bootstrap import ConfigError
from bootstrap.demo import Demo
from bootstrap.supervisor import SupervisorError, cause


def error(code: str) -> SupervisorError:
    return SupervisorError("text", code=code)


def test_the_first_error_is_the_cause() -> None:
    first = error("init-failed")
    assert cause([first, error("sum-failed"), error("worker-died")]) is first


def test_a_rank_killed_from_outside_is_the_cause_even_when_others_were_heard_first() -> None:
    killed = error("worker-killed")
    assert cause([error("sum-failed"), error("worker-died"), killed]) is killed


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"ranks": 1}, "bad-ranks"),
        ({"ranks": 9}, "bad-ranks"),
        ({"backend": "any"}, "bad-backend"),
        ({"host": "169.254.1.1"}, "not-loopback"),
        ({"host": "::1"}, "bad-ip"),
        ({"port": 0}, "bad-port"),
        ({"ranks": 8, "port": 65529}, "bad-port"),
        ({"session_id": ".."}, "bad-session-id"),
        ({"timeout": 0.0}, "bad-timeout"),
        ({"timeout": float("nan")}, "bad-timeout"),
        ({"timeout": 1e9}, "bad-timeout"),
    ],
)
def test_a_demo_that_cannot_be(wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Demo(**wrong)
    assert caught.value.code == code


def test_loopback_is_the_whole_of_127() -> None:
    assert Demo(host="127.8.9.10").ranks == 2
