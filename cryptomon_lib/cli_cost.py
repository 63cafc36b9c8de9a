"""`cryptomon cost`: what a month on AWS costs, and what would lower it."""

import json
from typing import Annotated

import typer

from cryptomon_lib.cli_options import Environment, Flags, choose, print_table


def add_to(app: typer.Typer) -> None:
    """Make the command part of an app."""
    app.command()(cost)


def cost(
    markets: Annotated[
        list[int], typer.Option(help="Markets polled each minute; may be given several times.")
    ] = [1_000, 10_000, 100_000],  # noqa: B006
    sources: Annotated[
        int | None,
        typer.Option(help="Exchanges that they are of; one for each thousand where not given.", min=1),
    ] = None,
    months: Annotated[
        int, typer.Option(help="The month that is billed: what is kept for ever grows.", min=1)
    ] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As docs/aws.md has it.")] = False,
    environment: Environment = "dev",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Reckon a month's bill of AWS from measured quantities and params/prices.yaml, and what would lower it.

    Asks nobody; the settings are those of dev where no other environment is named.
    """
    from cryptomon_lib import cost as reckoned
    from cryptomon_lib.config import load_settings
    from cryptomon_lib.errors import ParameterError

    if as_json and as_markdown:
        raise ParameterError("--json and --markdown exclude each other.")
    choose(environment, flags)
    settings, prices = load_settings(environment), reckoned.load_prices()
    plans = [reckoned.plan_of(settings, size, sources=sources, months=months) for size in markets]
    sheets = [reckoned.sheet(plan, prices) for plan in plans]
    levers = reckoned.levers(plans, prices)
    if as_json:
        typer.echo(json.dumps(reckoned.as_data(sheets, levers, prices), indent=1))
        return
    says = reckoned.says_of(prices, settings.athena.region)
    if as_markdown:
        typer.echo(reckoned.as_markdown(sheets, levers, says))
        return
    typer.echo(says)
    for one in sheets:
        typer.echo(f"\n{reckoned.title_of(one.plan)}")
        print_table(*reckoned.rows_of(one))
    typer.echo("\nLevers, each alone: USD a month saved; a negative figure is what it costs")
    print_table(*reckoned.lever_rows(levers, plans))
