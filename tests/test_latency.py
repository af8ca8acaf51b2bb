from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from edgeprune.boards import list_targets
from edgeprune.errors import BenchmarkError, BudgetError
from edgeprune.latency import (
    FEATURES,
    Deployment,
    Kernels,
    Operator,
    Predictor,
    Workload,
    count_features,
    deploy,
    read_predictor,
)
from edgeprune.latency.expectations import expect_coefficients
from edgeprune.latency.features import ITEM_BYTES
from edgeprune.latency.fitting import fit, left_out_errors

TRUE = np.array([0.03, 0.3, 2.5, 0.35, 1.1, 0.4, 0.3, 0.02])
KERNELS = Kernels(rows=4, columns=8, depth=16, cache_bytes=10_000)


def draw_operators(generator: np.random.Generator) -> list[Operator]:
    operators = []
    for _ in range(generator.integers(3, 12)):
        kind = str(generator.choice(["pointwise", "convolution", "depthwise", "elementwise"]))
        side, channels = generator.integers(1, 40), generator.integers(1, 200)
        taps = 9 if kind in ("convolution", "depthwise") else 1
        depth = {"elementwise": 0, "depthwise": 9}.get(kind, taps * generator.integers(1, 200))
        elements = side**2 * channels
        made = 0 if kind == "elementwise" else channels
        operators.append(Operator(kind, side**2, made, depth, taps, elements, elements))
    return operators


def draw_network(generator: np.random.Generator) -> Workload:
    return Workload.of(draw_operators(generator))


def draw_features(number: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    return np.array(
        [count_features(draw_network(generator), KERNELS, "int8") for _ in range(number)]
    )


@pytest.mark.parametrize("competing", [False, True])
def test_several_networks_at_once_count_as_each_alone(competing: bool) -> None:
    generator = np.random.default_rng(2)
    networks = [draw_operators(generator) for _ in range(5)]
    kernels = replace(KERNELS, competing=competing, call_weight=3.0)
    found = count_features(Workload.of_networks(networks), kernels, "int8")
    each = [count_features(Workload.of(network), kernels, "int8") for network in networks]
    np.testing.assert_allclose(found, each, rtol=1e-12)


def test_the_coefficients_of_a_known_cost_model_are_recovered() -> None:
    features = draw_features(40)
    np.testing.assert_allclose(fit(features, features @ TRUE), TRUE, rtol=1e-6)


def test_noise_in_the_measurements_moves_predictions_little() -> None:
    features = draw_features(60)
    noise = np.random.default_rng(0).normal(1, 0.03, 60)
    found = fit(features[:40], features[:40] @ TRUE * noise[:40])
    assert np.abs(features[40:] @ found / (features[40:] @ TRUE) - 1).mean() < 0.03


def test_what_measurements_cannot_tell_apart_the_prior_does() -> None:
    features = draw_features(30)
    features[:, 1] = 2 * features[:, 0]
    latencies = features @ TRUE
    np.testing.assert_allclose(fit(features, latencies, prior=TRUE), TRUE, rtol=1e-6)
    alone = fit(features, latencies)
    np.testing.assert_allclose(features @ alone, latencies, rtol=1e-6)
    assert not np.allclose(alone, TRUE, rtol=0.05)


@given(st.integers(0, 1000))
def test_no_coefficient_is_negative(seed) -> None:
    generator = np.random.default_rng(seed)
    features = generator.random((12, len(FEATURES)))
    assert (fit(features, generator.uniform(0.1, 9, 12)) >= 0).all()


def test_a_left_out_part_is_predicted_from_the_others_alone() -> None:
    features = draw_features(20)
    latencies = features @ TRUE
    latencies[:5] *= 3  # a family that costs three times as much
    errors = left_out_errors(features, latencies, ["a"] * 5 + ["b"] * 15)
    np.testing.assert_allclose(errors[:5], 1 / 3 - 1, rtol=1e-6)
    assert np.abs(errors[5:]).max() > 1


@pytest.mark.parametrize("latencies", [np.array([]), np.array([1.0, 0.0])])
def test_latencies_that_are_none_are_refused(latencies) -> None:
    with pytest.raises(BenchmarkError, match="fitted to positive latencies"):
        fit(np.ones((len(latencies), 2)), latencies)


def test_a_part_of_a_tile_costs_a_whole_one() -> None:
    def cost(channels: int) -> float:
        work = Workload.of([Operator("pointwise", 64, channels, 32, 1, 2048, 64 * channels)])
        return float(count_features(work, KERNELS, "int8")[0])

    assert cost(9) == cost(16) == 2 * cost(8)


def test_unrolled_windows_are_counted_apart_and_only_where_kernels_unroll() -> None:
    work = Workload.of([Operator("convolution", 64, 8, 9 * 16, 9, 1600, 512)])
    moved, unrolled = (
        list(FEATURES).index(f"{name}_bytes") for name in ("convolution", "unrolled")
    )
    found = count_features(work, KERNELS, "int8")
    assert found[unrolled] == pytest.approx(1e-6 * 64 * 144)
    assert found[moved] == pytest.approx(1e-6 * (1600 + 512))
    plain = count_features(work, replace(KERNELS, unrolls=False), "int8")
    assert (plain[unrolled], plain[moved]) == (0, found[moved])


def test_the_stated_error_grows_with_what_no_network_of_the_fit_had() -> None:
    """Nine tenths in a kind of work that had a quarter of the time at most."""
    at = list(FEATURES).index
    coefficients = np.zeros(len(FEATURES))
    coefficients[[at("matrix_macs"), at("other_bytes")]] = 1.0, 9.0
    shares = {"matrix_macs": 1.0, "other_bytes": 0.25}
    network = [
        Operator("pointwise", 1000, 10, 100),
        Operator("elementwise", 1, read=500_000, written=500_000, name="ADD"),
    ]
    known = Predictor("board", "int8", coefficients, Kernels(), 0.1)
    assert known.latency(network).error == 0.1
    new = replace(known, shares=shares).latency(network)
    assert new.error == pytest.approx(0.1 + 0.9 - 0.25)
    assert replace(known, shares=shares).latency(network[:1]).error == pytest.approx(0.1)


def test_an_old_file_counts_what_is_unrolled_as_it_did() -> None:
    table = Predictor("board", "int8", TRUE, KERNELS).to_dict()
    del table["coefficients"]["unrolled_bytes"]
    found = read_predictor("board", {"int8": table}, "int8")
    work = Workload.of([Operator("convolution", 64, 8, 9 * 16, 9, 1600, 512)])
    was, is_ = (list(FEATURES).index(f"{name}_bytes") for name in ("convolution", "unrolled"))
    assert found.coefficients[is_] == found.coefficients[was] == TRUE[was]
    assert found.milliseconds(work) > 0


def test_families_that_the_fit_has_not_seen_are_predicted_within_ten_percent(shared_data) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import predictor as benchmark
    finally:
        sys.path.pop(0)
    rows = benchmark.read_measurements(shared_data / "mlperf_pi")
    inside = []
    for system in benchmark.SYSTEMS:
        for scheme in benchmark.KERNELS:
            part = [row for row in rows if (row.system, row.scheme) == (system, scheme)]
            judged = benchmark.judge(part)
            inside += judged.inside.tolist()
            for family in {row.family for row in part}:
                assert np.abs(judged.errors[judged.of(family)]).mean() < 0.1
    assert len(inside) == 146
    assert np.mean(inside) >= 0.9, "of the truths lie inside the stated intervals"


def test_weights_beyond_the_cache_are_streamed_and_a_single_row_is_not() -> None:
    def streamed(positions: int, depth: int) -> float:
        work = Workload.of([Operator("pointwise", positions, 100, depth)])
        return float(count_features(work, KERNELS, "int8")[list(FEATURES).index("streamed_bytes")])

    assert (streamed(16, 90), streamed(16, 110), streamed(1, 110)) == (0, 0.011, 0)


def test_weights_that_compete_for_the_cache_are_streamed_as_far_as_they_exceed_it() -> None:
    kernels = Kernels(cache_bytes=10_000, competing=True)
    streamed, calls = (list(FEATURES).index(name) for name in ("streamed_bytes", "operators"))

    def count(*depths: int, **options) -> np.ndarray:
        work = Workload.of(Operator("fully_connected", 1, 100, depth) for depth in depths)
        return count_features(work, replace(kernels, **options), "int8")

    assert count(90)[streamed] == 0
    assert count(90, 110)[streamed] == pytest.approx(0.01)
    assert count(90, 110, call_weight=3.0)[calls] == 6


def test_a_predictor_survives_its_table_and_shows_its_error() -> None:
    predictor = Predictor(
        "board", "int8", TRUE, KERNELS, error=0.085, power_w=6.4, power_error=0.02, source="us",
        rates={"HARD_SWISH": 3.5}, shares=dict.fromkeys((*FEATURES, "HARD_SWISH"), 1.0),
        runtime="TFLite 2.7",
    )  # fmt: skip
    again = read_predictor("board", {"int8": predictor.to_dict()}, "int8")
    assert again == predictor
    work = [Operator("pointwise", 1000, 64, 64, 1, 64_000, 64_000)]
    latency, energy = again.latency(work), again.energy(work)
    assert latency.value == pytest.approx(float(predictor.milliseconds(Workload.of(work))))
    assert energy is not None and energy.value == pytest.approx(6.4 * latency.value)
    assert str(latency).endswith("ms, predicted for board with TFLite 2.7, +-8 %")
    assert energy.error == pytest.approx(0.105)


def test_an_operator_with_a_rate_of_its_own_costs_that_and_the_others_what_they_did() -> None:
    plain = Predictor("board", "int8", TRUE, KERNELS)
    rated = Predictor("board", "int8", TRUE, KERNELS, rates={"HARD_SWISH": 3.5, "MEAN": 0.0})
    gate, sum_ = (
        Operator("elementwise", 100, read=6000, written=4000, name=name)
        for name in ("HARD_SWISH", "ADD")
    )
    assert rated.latency([sum_]).value == plain.latency([sum_]).value
    extra = rated.latency([gate, sum_]).value - plain.latency([gate, sum_]).value
    assert extra == pytest.approx(0.01 * (3.5 - TRUE[list(FEATURES).index("other_bytes")]))
    assert rated.scaled(2).latency([gate]).value == pytest.approx(2 * rated.latency([gate]).value)


def test_a_format_without_coefficients_is_refused_with_what_there_is() -> None:
    tables = {"int8": Predictor("board", "int8", TRUE).to_dict()}
    with pytest.raises(
        BudgetError, match=r"in float32 cannot be predicted for target 'board'.*int8"
    ):
        read_predictor("board", tables, "float32")
    assert read_predictor("board", tables, "int8-qat").scheme == "int8"
    with pytest.raises(BudgetError, match="edgeprune calibrate --target board"):
        deploy("board", {}, "int8").require("latency")
    with pytest.raises(BudgetError, match="needs the power of target 'board'"):
        deploy("board", tables, "int8").require("energy")
    with pytest.raises(BudgetError, match="No target was given"):
        Deployment().require("latency")


@pytest.mark.parametrize(
    "damage",
    [{"coefficients": {}}, {"kernels": {"lines": 3}}, {"rates": 3}, {"rates": {"MUL": "slow"}}],
)
def test_a_damaged_table_is_refused(damage) -> None:
    table = Predictor("board", "int8", TRUE).to_dict() | damage
    with pytest.raises(BudgetError, match="cannot be read"):
        read_predictor("board", {"int8": table}, "int8")


def test_a_faster_board_is_expected_to_be_faster_at_everything() -> None:
    for scheme in ("int8", "float32"):
        slow = expect_coefficients(48, 3000, 1.5, scheme)
        assert (expect_coefficients(154, 6000, 2.4, scheme) < slow).all()


def test_every_table_of_a_shipped_board_is_a_predictor_with_an_error_and_a_source() -> None:
    found = [
        read_predictor(target.name, target.prediction, scheme)
        for target in list_targets()
        for scheme in target.prediction
        if scheme in ITEM_BYTES
    ]
    for predictor in found:
        assert 0 < predictor.error < 1 and predictor.source
        assert (predictor.coefficients > 0).all()
        assert predictor.kind in ("fitted", "scaled")
