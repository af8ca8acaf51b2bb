"""`edgeprune calibrate`: measure a machine, so that latencies on it can be predicted."""

from __future__ import annotations

from typing import Any

import click

from edgeprune.cli.options import COUNT, output_options
from edgeprune.cli.terminal import show, working


@click.command(
    short_help="Measure a machine, so that latency can be predicted.",
    epilog="\b\nExamples:\n  edgeprune calibrate\n"
    "  edgeprune calibrate --target rpi4 --host pi@raspberrypi.local",
)
@click.option("--target", metavar="NAME", default="x86-64", help="Target that is measured.")
@click.option(
    "--host", metavar="USER@HOST", show_default="this machine", help="Where to measure, by SSH."
)
@click.option(
    "--format",
    "schemes",
    type=click.Choice(["int8", "float32"]),
    multiple=True,
    show_default="both",
    help="Number format to measure.",
)
@click.option("--threads", type=COUNT, show_default="the target's", help="Threads of the runtime.")
@click.option(
    "--out",
    metavar="FILE",
    show_default="~/.config/edgeprune/targets/NAME.toml",
    help="Target file to write.",
)
@output_options
def calibrate(as_json: bool, quiet: bool, host: str | None, **options: Any) -> None:
    """Measure small networks on this machine or on a board (minutes), fit the predictor to them and
    write a target file, which from then on stands in for the shipped one.

    A calibration that was stopped goes on where it was.
    """  # noqa: D205
    with working(quiet) as progress:
        from edgeprune.boards import find_target
        from edgeprune.calibration import calibrate as run
        from edgeprune.calibration import measure_through_bench

        measure = None
        if host is not None:
            from edgeprune.benchmarking.ssh import SshTransport

            target = find_target(options["target"])
            measure = measure_through_bench(
                target, options["threads"], SshTransport(host, target.architecture)
            )
        schemes = options.pop("schemes")
        if schemes:
            options["schemes"] = schemes
        found = run(measure=measure, progress=progress, **options)
    result = {
        "file": str(found.path),
        "machine": found.machine,
        "threads": found.target.threads,
        "channel_step": found.target.channel_step,
        **{
            f"{predictor.scheme} error": f"+-{100 * predictor.error:.0f} %"
            for predictor in found.predictors
        },
    }
    from edgeprune.report.tables import describe_values

    show(lambda: result, lambda: describe_values(result), as_json, quiet)
