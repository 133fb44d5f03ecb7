"""What the page does, in Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.http.launching import serving
from tests.http.stores import Store
from tests.http.wire import Endpoint

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
WAIT_S = 20.0

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium-headless-shell is not installed")


class Browser:
    """One page of a browser. `problems` are what it complains of, such as breaches of the page's policy."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.problems: list[str] = []

    async def do(self, method: str, **params: Any) -> Any:
        """A command of the protocol."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            told = await self._socket.receive_json(timeout=WAIT_S)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            if told["method"] in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.problems.append(json.dumps(told["params"]))

    async def run(self, script: str) -> Any:
        """What a script comes to."""
        told = await self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, script: str) -> Any:
        """What a script comes to, as soon as that is true."""
        look = f"const it = {script}; if (it) resolve(it); else setTimeout(look, 20)"
        return await self.run(f"new Promise((resolve) => {{ const look = () => {{ {look} }}; look() }})")


@asynccontextmanager
async def showing(server: Endpoint, home: Path) -> AsyncIterator[Browser]:
    """The page of a server in a browser, which keeps its files in `home`."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={home / 'profile'}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WAIT_S):
            while not (match := re.search(rb"ws://([0-9.:]+)/", await process.stderr.readline())):
                pass
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{match[1].decode()}/json") as answer:
                (page,) = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                opened = Browser(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await opened.do(f"{domain}.enable")
                await opened.do("Page.navigate", url=f"http://{server.host}:{server.port}/docs")
                yield opened
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@pytest.fixture
async def browser(server: Endpoint, tmp_path: Path) -> AsyncIterator[Browser]:
    """The page, loaded."""
    async with showing(server, tmp_path) as opened:
        await opened.until("document.querySelectorAll('.operation').length")
        yield opened


async def _fill(browser: Browser, route: str, **fields: str) -> None:
    """Unfold a route and fill in its form."""
    await browser.run(f"document.getElementById({json.dumps(route)}).open = true")
    await browser.until(f"document.querySelector('#{route} form') !== null")
    for name, value in fields.items():
        control = f"document.querySelector('#{route} form').elements[{json.dumps(name.replace('__', ':'))}]"
        await browser.run(f"{control}.value = {json.dumps(value)}")
    await browser.run(f"document.querySelector('#{route} form').dispatchEvent(new Event('input'))")


async def _answer(browser: Browser, route: str) -> tuple[str, str]:
    """The status and the body that the form of a route comes to."""
    await browser.run(f"document.querySelector('#{route} form').requestSubmit()")
    status = f"document.querySelector('#{route} [role=status]').textContent"
    line = await browser.until(f"/^[0-9]/.test({status}) && {status}")
    body = f"document.querySelector('#{route} [aria-label=\"Body of the answer\"]').textContent"
    return str(line)[:3], str(await browser.run(body))


async def test_a_value_is_stored_and_read_by_the_page(browser: Browser, table: Store) -> None:
    here = {"query__db": str(table.db), "query__table": "things"}
    key = "a b/é?&#snapshot"
    await _fill(browser, "set", path__key=key, body='{"n": 18446744073709551616, "x": "</script>"}', **here)
    assert (await _answer(browser, "set"))[0] == "200"
    assert table.get(key) == b'{"n": 18446744073709551616, "x": "</script>"}'
    await _fill(browser, "get", path__key=key, **here)
    status, body = await _answer(browser, "get")
    assert (status, body) == ("200", '{\n  "n": 18446744073709551616,\n  "x": "</script>"\n}')
    assert browser.problems == []


async def test_a_key_that_reads_as_an_action_is_a_key(browser: Browser, table: Store) -> None:
    table.put("snapshot", b"mine")
    await _fill(browser, "get", path__key="snapshot", query__db=str(table.db), query__table="things")
    assert await _answer(browser, "get") == ("200", "mine")


async def test_an_error_is_shown(browser: Browser, table: Store) -> None:
    await _fill(browser, "get", path__key="none", query__db=str(table.db), query__table="things")
    status, body = await _answer(browser, "get")
    assert (status, json.loads(body)["code"]) == ("404", "KEY_NOT_FOUND")


async def test_the_command_does_the_same_and_keeps_the_token_to_itself(
    browser: Browser, table: Store
) -> None:
    await browser.run("document.getElementById('token').value = 'secret'")
    await browser.run("document.getElementById('token').dispatchEvent(new Event('input'))")
    assert await browser.run("sessionStorage.getItem('kvfs.token')") == "secret"
    await _fill(browser, "set", path__key="it's", body="it's", query__db=str(table.db), query__table="things")
    command = await browser.run("document.querySelector('#set form pre').textContent")
    assert "secret" not in command
    shell = await asyncio.create_subprocess_shell(f"{command} --silent --fail")
    assert await asyncio.wait_for(shell.wait(), WAIT_S) == 0
    assert table.get("it's") == b"it's"


async def test_a_server_with_tokens_is_shown_to_whoever_types_one_in(tmp_path: Path) -> None:
    with serving(tmp_path, "--token", "secret") as guarded:
        async with showing(guarded, tmp_path) as browser:
            notice = "document.getElementById('notice')"
            await browser.until(f"{notice} !== null")
            for typed, told in (("", "wants a token"), ("wrong", "not valid"), ("secret", "")):
                await browser.run(f"document.getElementById('token').value = '{typed}'")
                await browser.run("document.getElementById('token').dispatchEvent(new Event('change'))")
                await browser.until(f"{notice}.textContent.includes('{told}')")
            await browser.until("document.querySelectorAll('.operation').length")
            assert await browser.run(f"{notice}.hidden")
        guarded.stop()


async def test_every_route_can_be_unfolded(browser: Browser) -> None:
    await browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    count = await browser.run("document.querySelectorAll('.operation').length")
    await browser.until(f"document.querySelectorAll('.operation form').length === {count}")
    controls = "[...document.querySelectorAll('input, select, textarea')]"
    assert await browser.run(f"{controls}.filter((each) => !each.labels.length).length") == 0
    assert browser.problems == []


async def test_routes_are_found_by_words(browser: Browser) -> None:
    await browser.run("document.getElementById('filter').value = 'post incr'")
    await browser.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
    shown = (
        "[...document.querySelectorAll('.operation')].filter((each) => !each.hidden).map((each) => each.id)"
    )
    assert await browser.run(shown) == ["incr"]
