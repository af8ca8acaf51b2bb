"""Fitting the predictor to a machine: micro-models are measured there, nothing else is needed."""

from edgeprune.calibration.campaign import Calibration, calibrate, measure_through_bench

__all__ = ["Calibration", "calibrate", "measure_through_bench"]
