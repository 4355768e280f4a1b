"""The command line: ``labkit report | data | compare``.

Exit codes: 0, all done; 1, a notebook failed and the report says which, or the report could not be written; 2, bad
parameters or usage, or data that cannot be had, and nothing was run; 130, interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

import labkit

# Imports that need torch stand in the commands: `labkit --help` does not wait for them.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(labkit.__version__, prog_name="labkit")
def cli() -> None:
    """What a defence costs: utility, robustness and privacy of the same models, in one report."""
    # Relative folders (LABKIT_DATA, LABKIT_CACHE) count from here, also in the kernels.
    os.environ["LABKIT_START"] = os.getcwd()


@cli.command()
@click.argument("params", default="quick")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where to.  [default: reports/PROFILE]")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Set a parameter; may be repeated.")
def report(params: str, out: Path | None, assignments: tuple[str, ...]) -> None:
    """Run all notebooks and render the report.

    PARAMS is a profile (smoke, quick, full) or the path of a parameter file.
    """
    from labkit.report.plan import Refusal, plan
    from labkit.report.publish import Unpublished

    # A service manager's SIGTERM ends as Ctrl-C does: the kernel is stopped, the staging place removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ready = plan(params, assignments, out)
        from labkit.report.make import make_report

        outcomes = make_report(ready, sys.stderr)
    except Refusal as refusal:
        raise _Refused(str(refusal)) from None
    except Unpublished as error:
        click.echo(f"labkit: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(
            f"labkit: {error}; nothing was published, the old report stands. If a disk is full, make room, or give "
            "another folder with --out DIR",
            err=True,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("labkit: interrupted; nothing was published, finished work stays in the store", err=True)
        sys.exit(130)
    click.echo(ready.folder / "index.html")
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed:
        click.echo(f"labkit: {outcome.name} {outcome.sentence()}", err=True)
    sys.exit(1 if failed else 0)


@cli.command()
@click.argument("name", default="auto", type=click.Choice(["auto", "fashion_mnist", "digits"]))
def data(name: str) -> None:
    """Show a dataset, verified; FashionMNIST is downloaded if it is not there."""
    from labkit import data as datasets
    from labkit.store import user_folder

    try:
        dataset = datasets.load(name)
    except datasets.DataError as error:
        raise _Refused(str(error)) from None
    click.echo(f"{dataset.title} ({dataset.name})")
    click.echo(f"  training images  {len(dataset.train.labels):,}")
    click.echo(f"  test images      {len(dataset.test.labels):,}")
    click.echo(f"  sha256           {dataset.sha256}")
    click.echo(f"  folder           {user_folder('LABKIT_DATA', 'data')}")


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
def compare(a: Path, b: Path) -> None:
    """Compare two reports row by row: folders, or their summary.json."""
    from labkit.report.compare import CompareError, as_text, read_summary
    from labkit.report.compare import compare as compared

    try:
        summaries = read_summary(a), read_summary(b)
    except CompareError as error:
        raise _Refused(str(error)) from None
    click.echo(as_text(compared(*summaries)))


class _Refused(click.ClickException):
    """Told without a traceback; nothing was run."""

    exit_code = 2


def main() -> None:
    """Entry point of ``labkit``."""
    cli(prog_name="labkit")
