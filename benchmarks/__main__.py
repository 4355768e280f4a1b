"""``python -m benchmarks [--only epoch,pgd] [--device auto]``: measure, keep, and write RESULTS.md."""

from __future__ import annotations

import time

import click

from benchmarks.protocol import keep
from benchmarks.render import BENCHMARKS, measure, write
from labkit.device import resolve


@click.command()
@click.option("--only", default="", help="Names, with commas between; all by default.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
def main(only: str, device: str) -> None:
    """Measure labkit and its peers on the same work."""
    names = [name.strip() for name in only.split(",") if name.strip()] or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise click.UsageError(f"unknown: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    where = resolve(device)
    for name in names:
        click.echo(f"{name} ...")
        start = time.perf_counter()
        results, facts = measure(name)(where)
        keep(name, results, facts, where)
        write()
        for result in results:
            click.echo(f"  {result.work}, {result.peer}: {result.ratio:.2f}x")
        click.echo(f"  {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
