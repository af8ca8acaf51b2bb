"""One pass over calibration data, summed: all that criteria and closed-form recoveries need.

Statistics are taken at the inputs of the layers that read a group. They are sums, so shards add up
with `+`, memory does not grow with the number of samples, and one forward pass serves everything.
Products are computed on the backend; only `C x C` results come home, and add up in float64.
"""

from edgeprune.statistics.collection import BATCH_SIZE, collect_statistics
from edgeprune.statistics.sums import Moments, Spread, Statistics

__all__ = ["BATCH_SIZE", "Moments", "Spread", "Statistics", "collect_statistics"]
