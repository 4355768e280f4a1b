"""Membership inference: (logits, labels, who was a member) -> scores, and what they reveal."""

from labkit.membership.audit import ATTACKS, HEADLINE, SHADOWLESS, audit
from labkit.membership.chance import Chance, precision, smallest
from labkit.membership.curves import Roc, accuracy_at, dp_region, roc
from labkit.membership.halves import halves
from labkit.membership.learners import boosted, gains, learn, learned, logistic
from labkit.membership.likelihood import by_number, likelihood_ratio, lira, lira_offline, own, shared, surprise
from labkit.membership.shadows import calibrated, outranked, relative, rmia
from labkit.membership.signals import (
    FEATURES,
    correct,
    features,
    full,
    log_odds,
    log_odds_of,
    log_probability,
)
from labkit.membership.turns import Audit, exposure, in_turn

__all__ = [
    "ATTACKS",
    "FEATURES",
    "HEADLINE",
    "SHADOWLESS",
    "Audit",
    "Chance",
    "Roc",
    "accuracy_at",
    "audit",
    "boosted",
    "by_number",
    "calibrated",
    "correct",
    "dp_region",
    "exposure",
    "features",
    "full",
    "gains",
    "halves",
    "in_turn",
    "learn",
    "learned",
    "likelihood_ratio",
    "lira",
    "lira_offline",
    "log_odds",
    "log_odds_of",
    "log_probability",
    "logistic",
    "outranked",
    "own",
    "precision",
    "relative",
    "rmia",
    "roc",
    "shared",
    "smallest",
    "surprise",
]
