"""The Python examples of the documents: sessions print what they are said to print, programs run."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import pytest

from tests.docs.documents import Block, blocks, documents
from tests.serving import ServerProcess


def examples(document: str) -> list[Block]:
    """Those that no command of the document runs, as a file."""
    return [block for block in blocks(document, "python") if block.file is None]


def is_session(block: Block) -> bool:
    return block.text.startswith(">>>")


@pytest.mark.parametrize("document", [path for path in documents() if examples(path)])
def test_examples_do_what_they_say(
    tmp_path: Path, document: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "price-list.csv").write_bytes(b"tea,8\ncoffee,9\n\n")
    monkeypatch.chdir(tmp_path)
    with ServerProcess(tmp_path) as server:

        def here(code: str) -> str:
            return code.replace("http://127.0.0.1:8080", f"http://{server.host}:{server.port}")

        session = "\n".join(block.text for block in examples(document) if is_session(block))
        test = doctest.DocTestParser().get_doctest(here(session), {}, document, document, 0)
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert found.failed == 0, capsys.readouterr().out
        for block in examples(document):
            if not is_session(block):
                padding = "\n" * (block.line - 1)
                exec(
                    compile(padding + here(block.text), document, "exec"),
                    {"__name__": os.path.basename(document)},
                )
