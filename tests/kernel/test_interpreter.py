from __future__ import annotations

import sys

from datastreamx.interpreter import share_the_interpreter


def test_threads_take_turns_ten_times_as_often_as_by_default() -> None:
    before_s = sys.getswitchinterval()
    try:
        share_the_interpreter()
        assert sys.getswitchinterval() <= 0.0005
    finally:
        sys.setswitchinterval(before_s)
