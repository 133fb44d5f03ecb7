"""What a Python server on aiohttp and uvloop could reach at most: it answers constants by the same routes.

    python benchmarks/ceiling.py PORT

GET answers a value, PUT what kvfs answers to a PUT, after reading the body. Nothing is stored.
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

VALUE = b'{"name": "' + b"x" * 88 + b'"}'
OTHER_VALUE = VALUE.replace(b"x", b"y")
DONE = (
    b'{"status":"ok","success":true,"key":"key:0000123","created":false,"op_number":1234,'
    b'"content_type":"application/json","size":100}'
)


async def get(request: web.Request) -> web.Response:
    assert request.match_info["key"]
    return web.Response(body=VALUE, content_type="application/json")


async def put(request: web.Request) -> web.Response:
    assert request.match_info["key"]
    await request.read()
    return web.Response(body=DONE, content_type="application/json")


def main() -> None:
    app = web.Application()
    app.router.add_get("/api/v1/sqlite/kv/{key:.+}", get)
    app.router.add_put("/api/v1/sqlite/kv/{key:.+}", put)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=lambda text: None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
