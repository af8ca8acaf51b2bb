"""One run over all models: alone, warm-up, interleaved series, accuracy, energy."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable

import accuracy
import cold
import edgetpu
import environment
import interpreter
import prefixes
import recording
import throttling
import timing
import windows

Stopped = Callable[[], bool]


def measure(options: argparse.Namespace, stopped: Stopped) -> dict:
    """Measure all models; when `stopped` becomes true, return what there is."""
    paths = options.models
    files = [interpreter.check_file(path) for path in paths]
    accelerators = [choose_accelerator(path, options) for path in paths]
    batch = accuracy.read_batch(options.batch) if options.batch else None
    watch = throttling.Watch()
    if options.refuse_throttled:
        refuse(watch.look())
    if options.meter:  # rather now than after the timing
        recording.Recorder(options.meter, options.period).stop()
    before = environment.read_state()
    part = plan_progress(options)
    alone = []
    for index, path in enumerate(paths):
        part("cold", f"loading {os.path.basename(path)}", index / len(paths))
        alone.append(
            None
            if stopped()
            else cold.measure_in_own_process(path, options.threads, accelerators[index])
        )
    models = [
        interpreter.Model(path, options.threads, accelerators[index])
        for index, path in enumerate(paths)
    ]
    checks = [None] * len(models)
    if batch:
        for model in models:
            accuracy.check_batch(model, batch)
    for model in models:
        model.fill_inputs()

    warmups = []
    for index, model in enumerate(models):
        part("warmup", f"warming up {os.path.basename(model.path)}", index / len(models))
        warmups.append(timing.warm_up(model.run, options.warmup, stopped))
    counts = [
        timing.plan_runs(warmup["median_ms"], options.runs, options.seconds) for warmup in warmups
    ]

    def after_each_round(done: float) -> None:
        watch.look()
        part("timing", "timing", done)

    series = timing.interleave([model.run for model in models], counts, stopped, after_each_round)
    if options.refuse_throttled:
        refuse(watch.reasons)
    energy = None
    if options.energy and not stopped():
        runs = [model.run for model in models]
        energy = windows.measure(
            runs, options, stopped, lambda done: part("energy", "energy", done), watch
        )
    profiles = [None] * len(models)
    if options.profile:
        for index, path in enumerate(paths):

            def after_each_part(done: float, index: int = index) -> None:
                name = os.path.basename(paths[index])
                part("profile", f"timing parts of {name}", (index + done) / len(paths))

            profiles[index] = prefixes.measure(
                path, options, accelerators[index], stopped, after_each_part
            )
    if batch:
        for index, model in enumerate(models):
            part("accuracy", f"testing {os.path.basename(model.path)}", index / len(models))
            checks[index] = accuracy.measure(model, batch, stopped)
    report("done", 1.0)
    watch.look()
    return {
        "interrupted": stopped(),
        "settings": {
            "threads": options.threads,
            "runs": options.runs,
            "seconds": options.seconds,
            "warmup_seconds": options.warmup,
        },
        "environment": {
            "machine": environment.read_machine(),
            "software": environment.read_software(),
            "before": before,
            "after": environment.read_state(),
            "throttling": watch.describe(),
        },
        "process": {
            "tensorflow_loaded": "tensorflow" in sys.modules,
            "memory_peak_bytes": cold.read_memory("VmHWM"),
        },
        "models": [
            {
                **files[index],
                "delegate": models[index].delegate,
                "cold": alone[index],
                "warmup": warmups[index],
                "latency": timing.summarize(series[index]),
                "accuracy": checks[index],
                "profile": profiles[index],
            }
            for index in range(len(models))
        ],
        "energy": energy,
    }


def count(options: argparse.Namespace, stopped: Stopped) -> dict:
    """Run models without a clock: digests of outputs, between markers that a simulator counts."""
    import markers

    batch = accuracy.read_batch(options.batch) if options.batch else None
    models = []
    for index, path in enumerate(options.models):
        report(f"counting {os.path.basename(path)}", index / len(options.models))
        file = interpreter.check_file(path)
        model = interpreter.Model(path, options.threads, choose_accelerator(path, options))
        model.fill_inputs()
        model.run()  # the first one packs weights and allocates
        markers.mark(model.run, options.repeats)
        digest = model.digest_outputs()
        check = accuracy.measure(model, batch, stopped) if batch else None
        models.append({**file, "outputs_sha256": digest, "accuracy": check})
    report("done", 1.0)
    return {
        "interrupted": stopped(),
        "counted_inferences": options.repeats,
        "software": environment.read_software(),
        "models": models,
    }


def choose_accelerator(path: str, options: argparse.Namespace) -> tuple[str, str] | None:
    """Return library and device of the Edge TPU for a model that is compiled for it."""
    if not edgetpu.is_compiled(path):
        return None
    return options.delegate or edgetpu.LIBRARY, options.device


def refuse(reasons: list[str]) -> None:
    """Fail if there are reasons to."""
    if reasons:
        raise RuntimeError("the machine is slowing itself down: " + "; ".join(reasons))


def plan_progress(options: argparse.Namespace) -> Callable[[str, str, float], None]:
    """Return what reports how far a phase is, as a part of the whole."""
    weights = {"cold": 2.0, "warmup": 2.0, "timing": 6.0}
    if options.energy:
        weights["energy"] = 4.0 * options.repeats
    if options.profile:
        weights["profile"] = 10.0
    if options.batch:
        weights["accuracy"] = 2.0
    starts, total = {}, 0.0
    for name, weight in weights.items():
        starts[name] = total
        total += weight

    def part(phase: str, stage: str, done: float) -> None:
        report(stage, (starts[phase] + weights[phase] * done) / total)

    return part


def report(stage: str, done: float) -> None:
    """Write one line of progress."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"stage": stage, "done": round(done, 3)}), file=sys.stderr, flush=True)
