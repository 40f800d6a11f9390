"""The commands about the service: `wafer serve`, and `wafer token …` for who may use it."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from wafer.cli.store import as_json
from wafer.shown import shown_message, shown_text

if TYPE_CHECKING:
    from wafer.service.tokens import Tokens

SCOPES = ("read", "score", "operate")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: a free one.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A further name that people reach it by.")
@click.option(
    "--trust-proxy", "proxies", multiple=True, metavar="ADDRESS",
    help="A proxy, or network of proxies, that is believed whose requests it hands on.",
)  # fmt: skip
@click.option(
    "--tokens/--no-tokens",
    default=None,
    help="Whether each request needs a token; by default where others can reach it: another HOST, or a further name.",
)
@click.option(
    "--rate", default=1000.0, show_default=True, type=click.FloatRange(1), help="Requests a second of a client."
)
def serve(
    host: str, port: int, hosts: tuple[str, ...], proxies: tuple[str, ...], tokens: bool | None, rate: float
) -> None:
    """Serve the API until told to end: score wafers, take in batches, start runs, move alarms on.

    With nothing configured it listens on this machine alone, asks for no token, and works on the embedded database
    and registry. Where others can reach it, each request needs a token of `wafer token create`.

    \b
    Examples:
      wafer serve
      wafer serve --host 0.0.0.0 --allow-host wafers.fab.example
      wafer serve --allow-host wafers.fab.example --trust-proxy 127.0.0.1
    """
    from wafer.errors import SettingsError
    from wafer.lifeline import end_in_order, tie_children
    from wafer.logs import show_log_lines
    from wafer.preflight import look_ahead
    from wafer.service.app import create_app, serve
    from wafer.service.core import Options
    from wafer.service.guard import Limits, is_loopback
    from wafer.service.tokens import Tokens
    from wafer.settings import prepare_environment
    from wafer.workspace import Workspace

    settings = prepare_environment()
    asked = not is_loopback(host) or bool(hosts) if tokens is None else tokens
    options = Options(host, port, hosts, proxies, asked, limits=replace(Limits(), rate=rate, burst=2 * rate))
    with Workspace(settings) as workspace:
        app = create_app(workspace, options)
        look_ahead(settings)
        if asked and not any(token.valid for token in Tokens(workspace.storage).all()):
            raise SettingsError(
                "nobody could use the service, since there is no valid token: wafer token create NAME --scope read"
            )
        tie_children()
        end_in_order()
        show_log_lines(settings.log_format)
        serve(app, options, lambda address: click.echo(f"wafer listens on {address}"))


@click.group()
def token() -> None:
    """Say who may use the service, and what they may do there."""


@token.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it may do.")
@click.option(
    "--days", type=click.IntRange(1, 3650), default=None, help="For which it is valid; default: until revoked."
)
def create(name: str, scopes: tuple[str, ...], days: int | None) -> None:
    """Make a token for NAME and print it, once; the storage keeps no more than its digest.

    read sees everything, score has wafers scored, operate delivers, starts runs, brings labels and moves alarms.

    \b
    Example:
      wafer token create scada --scope read --scope score
    """
    made, text = _tokens().create(name, scopes, days)
    click.echo(text)
    click.echo(f"token {made.id} of {shown_text(name)}: {', '.join(made.scopes)}; it is not shown again", err=True)


@token.command("list")
@as_json
def list_tokens(as_json: bool) -> None:
    """List the tokens that were made, and which are valid."""
    found = _tokens().all()
    if as_json:
        told = [{**asdict(one), "valid": one.valid} for one in found]
        click.echo(json.dumps([{k: v for k, v in one.items() if k != "digest"} for one in told], indent=2))
        return
    for one in found:
        state = "valid" if one.valid else "revoked" if one.revoked else "expired"
        click.echo(f"{one.id}  {state:<8}  {','.join(one.scopes):<18}  {one.created}  {shown_message(one.name)}")
    click.echo(f"{len(found)} tokens")


@token.command()
@click.argument("number", metavar="ID")
def revoke(number: str) -> None:
    """Make the token of this ID worthless, within seconds and for ever."""
    one = _tokens().revoke(number)
    click.echo(f"token {one.id} of {shown_text(one.name)} is revoked")


def _tokens() -> "Tokens":
    from wafer.service.tokens import Tokens
    from wafer.settings import Settings

    storage = Settings.read().storage
    storage.need_bucket()
    return Tokens(storage)
