"""`edgeprune bench` and `calibrate`: models side by side, here, on a board, or emulated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.failures import INTERRUPTED, USAGE
from edgeprune.cli.options import (
    COUNT,
    HeadedCommand,
    combine,
    measured_option,
    output_option,
    output_options,
    place_option,
)
from edgeprune.cli.terminal import show, show_values, warn, working
from edgeprune.support.printable import printable

if TYPE_CHECKING:
    from threading import Event

    from edgeprune.benchmarking import BenchResult, SshTransport
    from edgeprune.emulation.counting import CountResult

board_options = combine(
    place_option(
        "--host",
        metavar="USER@HOST",
        show_default="this machine",
        help="Measure on this board, by SSH; with commas on several at once.",
    ),
    place_option(
        "--ssh-config", metavar="FILE", show_default="your own", help="Settings for ssh (ssh -F)."
    ),
    place_option(
        "--remote-python",
        metavar="PATH",
        show_default="~/.edgeprune/bin/python, else python3",
        help="Python on the board, with NumPy and a TensorFlow Lite runtime.",
    ),
    place_option(
        "--remote-folder",
        metavar="FOLDER",
        default="/tmp",
        help="On the board; the run has a folder of its own in it, removed at the end.",
    ),
    place_option("--provision", is_flag=True, help="Install the runtime if the board has none."),
    place_option(
        "--emulated",
        is_flag=True,
        help="Count instructions on the target's emulated CPU; no milliseconds.",
    ),
    place_option(
        "--emulator-root",
        metavar="FOLDER",
        show_default="~/.cache/edgeprune/arm64",
        help="Its user space, made by devices/emulator/make_root.sh.",
    ),
)


@click.command(
    cls=HeadedCommand,
    short_help="Measure .tflite models side by side, here or on a board.",
    epilog="\b\nExamples:\n"
    "  edgeprune bench before.tflite after/model.tflite --threads 4 --compare\n"
    "  edgeprune bench model.tflite --target rpi4 --host pi@raspberrypi.local --energy hwmon\n"
    "  edgeprune bench float32.tflite int8.tflite --profile --out figures/\n"
    "  edgeprune bench model.tflite --target rpi5 --emulated",
)
@click.argument("models", nargs=-1, required=True)
@place_option(
    "--target",
    metavar="NAME",
    help="Board the models are for, or a TOML file: gives the number of threads.",
)
@board_options
@measured_option(
    "--threads",
    type=COUNT,
    show_default="the target's, or 4",
    help="Threads of the runtime; never more than this machine has, unless asked for.",
)
@measured_option("--runs", type=COUNT, default=1000, help="Timed inferences per model, at most.")
@measured_option(
    "--seconds", type=float, metavar="S", default=5.0, help="Timed seconds per model, at most."
)
@measured_option(
    "--warmup",
    type=float,
    metavar="S",
    default=2.0,
    help="Seconds until times are steady, at most.",
)
@measured_option(
    "--energy",
    metavar="METER",
    default="none",
    help="pmic, hwmon, ina3221, rapl, battery (read by the board, or by this machine: hwmon@host); "
    "joulescope, ppk2, log:FILE (by this machine); auto: the target's.",
)
@measured_option(
    "--batch",
    metavar="FILE",
    show_default="no accuracy",
    help=".npz with inputs and labels: accuracy on that machine.",
)
@measured_option("--refuse-throttled", is_flag=True, help="Fail if the board slowed itself down.")
@measured_option(
    "--profile",
    is_flag=True,
    help="Also milliseconds per operator, summed per layer: models side by side.",
)
@output_option(
    "--against",
    metavar="FILE",
    show_default="nothing",
    help="Show everything relative to a measurement.json that was written before.",
)
@output_option("--compare", is_flag=True, help="Show everything relative to the first model.")
@output_option(
    "--out",
    metavar="FOLDER",
    show_default="nothing is written",
    help="For the figures as JSON and CSV, and a plot.",
)
@output_options
def bench(
    models: Sequence[str],
    compare: bool,
    against: str | None,
    out: str | None,
    emulated: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure .tflite MODELS on this machine or a board, interleaved in one clean process.

    Ctrl-C ends the run with what it has.
    """
    repeated = {model for model in models if models.count(model) > 1}
    if repeated:
        raise click.UsageError(f"'{min(repeated)}' is given twice.")
    _check_combination(emulated, options | {"against": against})
    if emulated:
        _count(models, out, as_json, quiet, options)
        return
    from edgeprune.benchmarking import earlier

    then = None if against is None else earlier.read_earlier(against, name_models(models))
    if "," in (options["host"] or ""):
        _measure_on_all(models, out, as_json, quiet, options)
        return
    with working(quiet):
        result = _measure(models, options)
        files = _write(result, out)
    for warning in result.warnings:
        warn(warning)
    from edgeprune.report.benchmarks import describe_changes, describe_measurements

    changes = [] if then is None else earlier.compare(result.measurements, then)

    def table() -> Any:
        shown = describe_measurements(result, compare, files)
        if against is not None:
            shown.renderables.append(describe_changes(changes, against))
        return shown

    def value() -> dict[str, Any]:
        return result.to_dict() | ({} if then is None else {"against": list(map(vars, changes))})

    show(value, table, as_json, quiet)
    if result.interrupted:
        click.echo("Interrupted. What had been measured until then is kept.", err=True)
        raise SystemExit(INTERRUPTED)


def _measure_on_all(
    models: Sequence[str], out: str | None, as_json: bool, quiet: bool, options: dict[str, Any]
) -> None:
    """Measure on several boards at the same time; each writes into a folder of its own."""
    from edgeprune.benchmarking.fleets import measure_on_all
    from edgeprune.report.benchmarks import describe_fleet

    with working(quiet):
        found = measure_on_all(
            lambda host, stop: _measure(models, options | {"host": host}, stop),
            [host.strip() for host in options["host"].split(",")],
        )
        for host, result in found.results.items():
            _write(result, None if out is None else os.path.join(out, host.replace("/", "-")))
    for host, result in found.results.items():
        for warning in result.warnings:
            warn(f"{host}: {warning}")
    show(found.to_dict, lambda: describe_fleet(found), as_json, quiet)
    for host, reason in found.failures.items():
        click.echo(f"Error: {printable(f'{host}: {reason}')}", err=True)
    if found.interrupted or found.failures:
        raise SystemExit(INTERRUPTED if found.interrupted else USAGE)


def _measure(
    models: Sequence[str], options: dict[str, Any], stop: Event | None = None
) -> BenchResult:
    from edgeprune.benchmarking import BenchInterrupted, profile
    from edgeprune.benchmarking import bench as run
    from edgeprune.boards import find_target

    target = find_target(options["target"]) if options["target"] else None
    transport = _choose_transport(options, target.architecture if target else None)
    if transport is not None:
        transport = replace(transport, stop=stop)
    try:
        if options["profile"]:
            return profile(
                name_models(models),
                target=target,
                threads=options["threads"],
                seconds=options["seconds"],
                transport=transport,
            )
        names = ("threads", "runs", "seconds", "warmup", "energy", "batch", "refuse_throttled")
        settings = {name: options[name] for name in names}
        return run(name_models(models), target=target, transport=transport, **settings)
    except BenchInterrupted as interruption:
        return interruption.result


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Return paths by names: what is left of them without the folder that all have in common.

    Example:
        >>> name_models(["nets/a/model.tflite", "nets/b/model.tflite"])
        {'a/model.tflite': 'nets/a/model.tflite', 'b/model.tflite': 'nets/b/model.tflite'}
    """
    folders = {os.path.dirname(os.path.abspath(model)) for model in models}
    common = os.path.commonpath(folders)
    return {os.path.relpath(os.path.abspath(model), common): model for model in models}


def _choose_transport(options: dict[str, Any], architecture: str | None) -> SshTransport | None:
    if options["host"] is None:
        return None
    from edgeprune.benchmarking import SshTransport

    return SshTransport(
        options["host"],
        architecture,
        config=Path(options["ssh_config"]) if options["ssh_config"] else None,
        python=options["remote_python"],
        folder=options["remote_folder"],
        provision=options["provision"],
    )


def _count(
    models: Sequence[str], out: str | None, as_json: bool, quiet: bool, options: dict[str, Any]
) -> None:
    with working(quiet):
        from edgeprune.emulation.counting import count_instructions

        result = count_instructions(
            name_models(models),
            target=options["target"],
            root=Path(options["emulator_root"]) if options["emulator_root"] else None,
            batch=Path(options["batch"]) if options["batch"] else None,
        )
        _write(result, out)
    from edgeprune.report.benchmarks import describe_counts

    show(result.to_dict, lambda: describe_counts(result), as_json, quiet)


def _write(result: BenchResult | CountResult, out: str | None) -> Sequence[str]:
    if out is None:
        return ()
    from edgeprune.report.bench_files import write_results

    return [str(path) for path in write_results(result, out)]


def _check_combination(emulated: bool, options: dict[str, Any]) -> None:
    """Refuse options that contradict each other, before anything starts."""
    if emulated and options["target"] is None:
        raise click.UsageError("--emulated needs --target: whose CPU is to be emulated?")
    if emulated and (options["host"] or options["energy"] != "none"):
        raise click.UsageError("--emulated has neither a host nor energy: nothing is timed there.")
    if options["profile"] and (emulated or options["batch"] or options["energy"] != "none"):
        raise click.UsageError("--profile times operators, nothing else: no energy, no batch.")
    hosts = [] if options["host"] is None else [each.strip() for each in options["host"].split(",")]
    if len(hosts) > len(set(hosts) - {""}):
        raise click.UsageError(f"--host {options['host']}: a host is missing or named twice.")
    if len(hosts) > 1:
        from edgeprune.benchmarking.measurement_settings import Meter

        if options["energy"] not in ("none", "auto") and Meter.parse(options["energy"]).on_host:
            raise click.UsageError("A meter of this machine stands beside one board: one --host.")
        if options["against"] is not None:
            raise click.UsageError("--against compares the run on one machine: one --host.")
    if options["host"] is None:
        for name in ("ssh_config", "remote_python", "provision"):
            if options[name]:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --host.")


@click.command(
    cls=HeadedCommand,
    short_help="Measure a machine, so that latency can be predicted.",
    epilog="\b\nExamples:\n  edgeprune calibrate\n"
    "  edgeprune calibrate --target rpi4 --host pi@raspberrypi.local",
)
@place_option("--target", metavar="NAME", default="x86-64", help="Target that is measured.")
@place_option(
    "--host", metavar="USER@HOST", show_default="this machine", help="Where to measure, by SSH."
)
@measured_option(
    "--format",
    "schemes",
    type=click.Choice(["int8", "float32"]),
    multiple=True,
    show_default="both",
    help="Number format to measure.",
)
@measured_option(
    "--threads", type=COUNT, show_default="the target's", help="Threads of the runtime."
)
@output_option(
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
    with working(quiet):
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
        found = run(measure=measure, **options)
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
    show_values(result, as_json, quiet)
