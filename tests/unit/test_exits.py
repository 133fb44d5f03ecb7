"""How commands end."""

from __future__ import annotations

import signal
import sys
import time

import click
import pytest

from server.cli import exits


class _Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.timeout(10)
def test_ctrl_c_is_not_lost_where_python_ignores_exceptions() -> None:
    before = sys.unraisablehook
    with pytest.raises(SystemExit) as ended, exits.told():  # noqa: PT012 - the second is what is interrupted
        _Finalized()
        time.sleep(20)
    assert ended.value.code == exits.INTERRUPTED
    assert sys.unraisablehook is before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_what_is_interrupted_makes_no_words(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exits.told():
        raise error
    assert ended.value.code == exits.INTERRUPTED
    assert capsys.readouterr() == ("", "")
