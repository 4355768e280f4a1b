"""Membership inference: (logits, labels, who was a member) -> scores, and what they reveal."""

from labkit.membership.audit import ATTACKS, SHADOWLESS, Audit, audit
from labkit.membership.curves import Roc, accuracy_at, dp_region, roc
from labkit.membership.halves import halves
from labkit.membership.shadows import learned, lira, rmia
from labkit.membership.signals import FEATURES, correct, features, log_odds

__all__ = [
    "ATTACKS",
    "FEATURES",
    "SHADOWLESS",
    "Audit",
    "Roc",
    "accuracy_at",
    "audit",
    "correct",
    "dp_region",
    "features",
    "halves",
    "learned",
    "lira",
    "log_odds",
    "rmia",
    "roc",
]
