"""Figures from rows; nothing is measured here. One look for all of them, in :mod:`labkit.plots.style`."""
