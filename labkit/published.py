"""Figures that others published on FashionMNIST, to stand beside one's own: what was attacked, how, and who says so.

They are points of reference, not a like-for-like comparison: networks, training images and attacks differ.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published measurement under l-infinity attack.

    Attributes:
        source: who published it, and where.
        model: the regime, by the names that rows use.
        eps: radius trained and attacked with, pixels in [0, 1].
        attack: as published.
        value: accuracy under that attack, a fraction. clean: without an attack, or None.
    """

    source: str
    model: str
    eps: float
    attack: str
    value: float
    clean: float | None = None


_SONG = "Song, Shokri and Mittal (CCS 2019)"
_ROBUST = "PyTorch-Robust (model zoo)"
_DISTANCES = "Zhang et al. (ICML 2021)"

ROBUSTNESS = (
    Published(_SONG, "standard", 0.1, "PGD-20", 0.041, 0.922),
    Published(_SONG, "pgd", 0.1, "PGD-20", 0.681, 0.909),
    Published(_SONG, "trades", 0.1, "PGD-20", 0.724, 0.909),
    Published(_SONG, "ibp", 0.1, "PGD-20", 0.784, 0.863),
    Published(_DISTANCES, "l-infinity distance net", 0.1, "certified", 0.792),
    Published(_ROBUST, "pgd", 0.3, "PGD-100", 0.569, 0.778),
    Published(_ROBUST, "pgd", 0.3, "AutoAttack", 0.460, 0.778),
    Published(_ROBUST, "trades", 0.3, "PGD-100", 0.500, 0.781),
    Published(_ROBUST, "trades", 0.3, "AutoAttack", 0.342, 0.781),
    Published(_ROBUST, "fgsm", 0.3, "FGSM", 0.963, 0.919),
    Published(_ROBUST, "fgsm", 0.3, "AutoAttack", 0.0, 0.919),
)

# DP-SGD's linear classifier: name, epsilon at delta 1e-5, accuracy on the test images.
FRONTIER = (("Tramer and Boneh (ICLR 2021), all 60 000 images", 3.0, 0.897),)
