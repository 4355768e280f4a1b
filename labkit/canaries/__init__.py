"""Canaries: what an audit of one training run demonstrates about its epsilon, from below."""

from labkit.canaries.bound import LowerBound, lower_bound, one_run, p_value, reach
from labkit.canaries.dirac import BatchClipped, Played, white_box
from labkit.canaries.heads import final_weights
from labkit.canaries.mislabelled import Planted, mislabelled
from labkit.canaries.tradeoff import curve_lower_bound, gaussian_lower_bound, refuted

__all__ = [
    "BatchClipped",
    "LowerBound",
    "Planted",
    "Played",
    "curve_lower_bound",
    "final_weights",
    "gaussian_lower_bound",
    "lower_bound",
    "mislabelled",
    "one_run",
    "p_value",
    "reach",
    "refuted",
    "white_box",
]
