"""`kvfs share`."""

from __future__ import annotations

import click

from server.cli.exits import told
from server.cli.options import token_options


@click.command(epilog="Example: kvfs share --db app --key report.pdf --expires 7d")
@token_options
@click.option("--by", help="The name of the token that signs, where there are several.")
@click.option(
    "--url", "server", default="http://127.0.0.1:8080", help="How whoever gets it reaches the server."
)
@click.option("--db", required=True, help="The database.")
@click.option("--table", help="The KV table, or the folder of a directory store.  [default: kv_store]")
@click.option("--key", help="The key whose value is shared.")
@click.option("--sql", help="The SELECT whose answer is shared.")
@click.option("--path", help="A JSON path into the value.")
@click.option("--format", type=click.Choice(["json", "csv"]), help="The form of the answer to --sql.")
@click.option("--expires", default="1h", help="For how long the link is good: 90s, 15m, 1h, 7d.")
def share(
    token: str | None,
    token_file: str | None,
    by: str | None,
    server: str,
    key: str | None,
    sql: str | None,
    expires: str,
    **params: str | None,
) -> None:
    """Print a link to one value, or to the answer of one SELECT, that needs no token until it expires.

    It is signed with a token; the server is not asked. It is good for just this, for whoever has it, and for
    no longer than the server knows the token. A relative --db means what it means to the server.
    """
    import time

    from server import share as sharing
    from server.tokens import Source

    if (key is None) == (sql is None):
        raise click.UsageError("Give either --key or --sql.")
    given = {name: value for name, value in params.items() if value is not None}
    with told():
        signer = sharing.signer(Source(token, token_file), by)
        expires_s = int(time.time()) + sharing.seconds(expires)
        if sql is None:
            url = sharing.key_url(server, signer, key or "", given, expires_s=expires_s)
        else:
            url = sharing.query_url(server, signer, sql, given, expires_s=expires_s)
        click.echo(url)
