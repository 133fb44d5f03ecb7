"""Python's sleep below libfaketime, whose clock_nanosleep (0.9.10) takes every clock for the one it sets."""

import select
import time


def _sleep(seconds: float, /) -> None:
    select.select([], [], [], seconds)


vars(time)["sleep"] = _sleep
