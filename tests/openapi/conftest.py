"""What the tests of the document share with those of HTTP."""

from tests.http.conftest import kind, server, table

__all__ = ["kind", "server", "table"]
