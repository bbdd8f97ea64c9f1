"""What all commands take that open a finished run."""

from __future__ import annotations

import click

run_store = click.option(
    "--store", metavar="URL", help="Where the store of the run is now, if it was moved: a folder or URL."
)
