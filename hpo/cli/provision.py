"""`hpo provision`: make roles, databases, tables and the bucket on servers that run already."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from hpo.cli.terminal.options import json_option, show
from hpo.services.credentials import read_logins
from hpo.services.provisioning import Provisioned, provision
from hpo.settings import Settings

WAIT_S = 120.0


@click.command("provision", short_help="Make roles, databases, tables, rights and the bucket.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 86400),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for PostgreSQL and S3 to answer.",
)
@json_option
def provision_command(wait_s: float, as_json: bool) -> None:
    """Make roles, databases, tables, rights and the bucket.

    For a PostgreSQL server and an S3 store that are there already; again after each upgrade, and
    to change passwords. HPO_ADMIN_STORAGE is the URL of an administrator (a superuser, or a role
    with CREATEROLE and CREATEDB). With it the roles of HPO_STORAGE, MLFLOW_BACKEND_STORE_URI and
    HPO_READER_STORAGE are made, with the passwords that stand there, and the databases that the
    first two own. Without it these exist, and get tables and rights alone. What is as it should
    be stays as it is.

    Nothing is made where a password of these URLs is an example's or too short, nor where
    AWS_SECRET_ACCESS_KEY, RAY_AUTH_TOKEN or PROXY_PASSWORD is set to such a one.
    """
    settings = Settings.read()
    done = provision(
        settings, read_logins(os.environ), wait_s=wait_s, say=lambda it: click.echo(it, err=True)
    )
    show(as_json, asdict(done), lambda: _print(done))


def _print(done: Provisioned) -> None:
    for kind, found in (
        ("role", done.roles),
        ("database", done.databases),
        ("bucket", done.bucket),
    ):
        for name, how in found.items():
            click.echo(f"{kind:<9} {name:<20} {'made' if how == 'made' else 'was there'}")
    if done.handed_over:
        click.echo(
            f"{done.handed_over} tables and types were another role's, and are its owner's now."
        )
    if done.given_back:
        click.echo(f"{done.given_back} things lacked a right of their owner's, which has it again.")
    click.echo(f"tables    schema hpo at {done.revision}")
    if done.reader:
        click.echo(f"reader    {done.reader} may read, and nothing else")
