"""`kvfs open`."""

from __future__ import annotations

import click

from server.cli.options import option


@click.command(epilog="Example: kvfs open --url http://127.0.0.1:9000")
@option("--url", default="http://127.0.0.1:8080", help="The server.")
def open_page(url: str) -> None:
    """Open the page of the API, to read and try it, in the browser; and print its address."""
    page = url.rstrip("/") + "/docs"
    click.echo(page)
    click.launch(page)
