"""The command line of the harness."""

from __future__ import annotations

import argparse
import re

import edgetpu
import meters

SMALLEST_WINDOW = 10.0


def read_arguments(arguments: list[str], description: str) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(prog="harness", description=description)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="path of a .tflite file")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default 1)")
    parser.add_argument("--runs", type=int, default=1000, help="timed per model (default 1000)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="fewer runs if a model needs longer (default 5)"
    )
    parser.add_argument(
        "--warmup", type=float, default=2.0, help="most seconds until steady (default 2)"
    )
    parser.add_argument(
        "--delegate",
        metavar="FILE",
        help=f"library that runs models compiled for the Edge TPU (default {edgetpu.LIBRARY})",
    )
    parser.add_argument(
        "--device", metavar="NAME", default="", help="of the Edge TPU: usb:0, pci (default: any)"
    )
    parser.add_argument(
        "--batch", metavar="FILE", help=".npz with inputs and labels: accuracy of every model"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also time parts of every model, operator by operator",
    )
    parser.add_argument(
        "--meter", metavar="METER", help="power while it runs: " + meters.describe()
    )
    parser.add_argument(
        "--energy", action="store_true", help="busy and idle windows, for a meter here or elsewhere"
    )
    parser.add_argument("--repeats", type=int, default=5, help="busy windows per model (default 5)")
    parser.add_argument(
        "--window",
        type=float,
        default=SMALLEST_WINDOW,
        help=f"least seconds of a window (default {SMALLEST_WINDOW:g})",
    )
    parser.add_argument(
        "--period", type=float, help="seconds between readings of the meter (default: the meter's)"
    )
    parser.add_argument(
        "--refuse-throttled", action="store_true", help="fail if the machine slowed itself down"
    )
    parser.add_argument(
        "--watch-stdin", action="store_true", help="end when standard input is closed"
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--record", metavar="METER", help="only print power, until stopped")
    modes.add_argument("--clock", action="store_true", help="answer every line with the time")
    modes.add_argument("--count", action="store_true", help="numbers and markers; nothing is timed")
    modes.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.energy = options.energy or options.meter is not None
    if not (options.models or options.record or options.clock):
        parser.error("give at least one model")
    numbers = (options.threads, options.runs, options.repeats, options.seconds, options.window)
    if not re.fullmatch(r"(usb|pci)?(:\d+)?", options.device):
        parser.error("the device is usb, pci, usb:0 or the like")
    if min(numbers) <= 0 or options.warmup < 0 or (options.period or 1) <= 0:
        parser.error("threads, runs, repeats, seconds, window and period must be positive")
    return options
