"""The Python examples of the documents: each says what is there to be seen after it."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from tests.serving import ServerProcess

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("document", ["docs/client.md"])
def test_examples_do_what_they_say(
    tmp_path: Path, document: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (tmp_path / "price-list.csv").write_bytes(b"tea,8\ncoffee,9\n\n")
    monkeypatch.chdir(tmp_path)
    with ServerProcess(tmp_path) as server:
        session = "\n".join(blocks).replace("http://127.0.0.1:8080", f"http://{server.host}:{server.port}")
        test = doctest.DocTestParser().get_doctest(session, {}, document, document, 0)
        assert len(test.examples) > 10
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert found.failed == 0, capsys.readouterr().out
