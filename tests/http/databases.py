"""A database file of a running server, asked in SQL over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.http.wire import BASE, Answer, Endpoint, Headers, target_of


class SqlFile:
    """One database file, made at the first question."""

    def __init__(self, server: Endpoint, path: Path) -> None:
        self.server = server
        self.path = path
        path.parent.mkdir(exist_ok=True)
        assert server.ask("POST", target_of(f"{BASE}/db/create", path=path)).status == 200

    def send(self, body: object, **params: object) -> Answer:
        """Any body to `POST /db`."""
        sent = body if isinstance(body, bytes) else orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
        return self.server.ask("POST", target_of(f"{BASE}/db", **{"db": self.path, **params}), sent)

    def run(self, *items: object, **params: object) -> Any:
        """The answer to a transaction that was understood; a text is a statement."""
        shown = [{"statement": item} if isinstance(item, str) else item for item in items]
        return self.send({"transaction": shown}, **params).done()

    def did(self, *items: object, **params: object) -> list[Any]:
        """The results of a transaction that must succeed."""
        results: list[Any] = self.run(*items, **params)["results"]
        assert all(result["success"] for result in results), results
        return results

    def rows(self, sql: str, values: object = None) -> list[list[Any]]:
        """The rows of a query."""
        item = {"query": sql, "values": values}
        answer = self.send({"resultFormat": "list", "transaction": [item]}).done()
        rows: list[list[Any]] = answer["results"][0]["resultSetList"]
        return rows

    def failed(self, *items: object) -> str:
        """The error of a transaction that must fail."""
        answer = self.run(*items)
        assert answer["success"] is False, answer
        error: str = answer["error"]
        return error

    def select(self, sql: str, *, headers: Headers = (), **params: object) -> Answer:
        """`GET /query`."""
        target = target_of(f"{BASE}/query", **{"db": self.path, "sql": sql, **params})
        return self.server.ask("GET", target, headers=headers)
