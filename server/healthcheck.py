"""`python -m server.healthcheck`: is the server on this machine healthy? For container health checks.

Asks the port in `KVFS_PORT`, or 8080. Exits with 0 if so; else with 1 and one line on stderr that says why.
Imports the standard library only: it is started every few seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Final

TIMEOUT_S: Final = 3.0


def problem(url: str) -> str | None:
    """What keeps the server at `url` from being healthy; None if nothing does."""
    # No proxies: the environment's are for the world outside, and this never leaves the machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            status = answer.status
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return f"answered {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    if status != 200:
        return f"answered {status}"
    if not isinstance(body, dict) or body.get("status") != "ok":
        return f"answered {body!r:.200}"
    return None


def main() -> int:
    """The exit code."""
    url = f"http://127.0.0.1:{os.environ.get('KVFS_PORT') or 8080}/api/v1/sqlite/health"
    reason = problem(url)
    if reason is not None:
        sys.stderr.write(f"kvfs is not healthy: {url}: {' '.join(reason.split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
