"""From outcomes to rows: each measurement with the interval that fits it.

One model: the interval is over examples, for this very model. Several models: it is over models (Student t), for these
very images: how much another training would differ, not how much another test set would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from labkit.intervals import LEVEL, area, student_t, wilson
from labkit.membership import SHADOWLESS, Audit, roc
from labkit.membership.chance import widening
from labkit.progress import Bar, unseen
from labkit.results import Row, row

Kind = TypeVar("Kind", bound=Hashable)
Trial = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, labels) -> bool [N], which images stand
FPRS = (0.01, 0.001)  # where the true-positive rate of a membership attack is read


def fraction(model: str, metric: str, outcomes: Tensor, **facts: Any) -> Row:
    """A fraction of successes: accuracy, robust accuracy.

    Args:
        outcomes: bool [M, N], models by examples.
        facts: what else identifies the row.
    """
    per_model = outcomes.double().mean(1).tolist()  # M
    n = outcomes.shape[1]
    if len(per_model) == 1:
        bounds, kind = wilson(int(outcomes.sum()), n), "wilson"
    else:
        low, high = student_t(per_model)
        bounds, kind = (max(0.0, low), min(1.0, high)), "student-t"
    return row(model, metric, float(np.mean(per_model)), bounds, n=n, models=len(per_model), interval=kind, **facts)


def difference(model: str, metric: str, a: Tensor, b: Tensor, **facts: Any) -> Row:
    """By how much models succeed more often than others on the same examples.

    One of each: over examples, on each of which both are right, or one, or none (Bonett and Price 2012: as Wald's, with
    a pair more each way). Several: over models, which were trained apart (Welch 1947).

    Args:
        a, b: bool [M, N], outcomes of the two kinds, models by examples.
        facts: what else identifies the row.
    """
    (m, n), apart = a.shape, (a.double().mean() - b.double().mean()).item()
    if m == 1:
        ahead, behind = (float(((x & ~y).sum() + 1) / (n + 2)) for x, y in ((a, b), (b, a)))
        half = stats.norm.ppf(0.5 + LEVEL / 2) * math.sqrt((ahead + behind - (ahead - behind) ** 2) / (n + 2))
        low, high, kind = ahead - behind - half, ahead - behind + half, "bonett-price"
    else:
        test = stats.ttest_ind(a.double().mean(1).numpy(), b.double().mean(1).numpy(), equal_var=False)
        (low, high), kind = test.confidence_interval(LEVEL), "welch"
    return _difference(model, metric, apart, low, high, n=n, models=m, interval=kind, **facts)


def matched_difference(model: str, metric: str, a: Tensor, b: Tensor, **facts: Any) -> Row:
    """As :func:`difference`, of several models that were trained on the same halves, half by half (Student t)."""
    apart = (a.double().mean(1) - b.double().mean(1)).tolist()  # M
    low, high = student_t(apart)
    count = {"n": a.shape[1], "models": len(apart)}
    return _difference(model, metric, float(np.mean(apart)), low, high, interval="student-t, paired", **count, **facts)


def _difference(model: str, metric: str, value: float, low: float, high: float, **facts: Any) -> Row:
    return row(model, metric, value, (max(-1.0, float(low)), min(1.0, float(high))), **facts)


def level_with(best: Tensor, others: Mapping[Kind, Tensor]) -> list[Kind]:
    """Which models cannot be told from the best ones on the same examples.

    One of each kind: McNemar's exact test (1947) on the examples on which the two differ. Several: paired Student t
    tests over models that were trained on the same halves. The best were found to be so on these very examples: so
    Bonferroni pays for a test of every pair of kinds, not only of those with the best.

    Args:
        best: bool [M, N], outcomes, models by examples; others: theirs, by name.
    """
    p = {}
    for name, other in others.items():
        if len(best) == 1:
            ahead, behind = int((best & ~other).sum()), int((other & ~best).sum())
            p[name] = stats.binomtest(ahead, ahead + behind).pvalue if ahead + behind else 1.0
        else:
            apart = best.double().mean(1) - other.double().mean(1)  # [M]
            p[name] = stats.ttest_1samp(apart.numpy(), 0).pvalue if apart.std() > 0 else float((apart == 0).all())
    pairs = math.comb(len(others) + 1, 2)
    return [name for name in others if p[name] * pairs > 1 - LEVEL]


def mean(model: str, metric: str, values: Sequence[float], *, n: int, **facts: Any) -> Row:
    """A mean over models, with a Student t interval where there are several.

    Args:
        values: M, each a figure of ``n`` examples.
    """
    bounds, kind = (student_t(values), "student-t") if len(values) > 1 else (None, None)
    return row(model, metric, float(np.mean(values)), bounds, n=n, models=len(values), interval=kind, **facts)


def over_images(model: str, metric: str, values: Tensor, **facts: Any) -> Row:
    """A mean over images, of a figure [N] that each has, with a Student t interval where there are several."""
    bounds, kind = (student_t(values.tolist()), "student-t") if len(values) > 1 else (None, None)
    return row(model, metric, values.double().mean().item(), bounds, n=len(values), interval=kind, **facts)


def utility(model: str, logits: Tensor, labels: Tensor, **facts: Any) -> list[Row]:
    """Accuracy and cross-entropy (nats) from logits [M, N, C] and labels [N]."""
    loss = F.cross_entropy(logits.transpose(1, 2), labels.expand(len(logits), -1), reduction="none")  # [M, N]
    per_model = loss.double().mean(1).tolist()
    right = logits.argmax(2) == labels  # [M, N]
    if len(logits) > 1:
        loss_row = mean(model, "loss", per_model, n=len(labels), **facts)
    else:
        half = stats.norm.ppf(0.5 + LEVEL / 2) * loss.std().item() / loss.numel() ** 0.5 if loss.numel() > 1 else None
        bounds = half and (per_model[0] - half, per_model[0] + half)
        loss_row = row(model, "loss", per_model[0], bounds, n=loss.numel(), interval="normal", **facts)
    return [fraction(model, "accuracy", right, **facts), loss_row]


def leakage(model: str, audit: Audit, **facts: Any) -> list[Row]:
    """What an attack learns from M targets: AUC, balanced accuracy, TPR at low FPR; intervals over targets.

    The balanced accuracy is at a threshold from another model; a TPR is read off the target's own curve, at the
    threshold of an *oracle* who knows its false-positive rate, and an attack that says yes or no has none. Where
    shadows are used, two models meet twice, each once as the target and once as a shadow, and both times their chance
    agreement counts alike: where nothing leaks and all M - 1 others are shadows, the variance of the mean over M
    targets is 2 (M - 1) / (M - 2) times what their spread suggests. The Student t interval is widened accordingly
    (:func:`labkit.membership.chance.widening`); where much leaks that is too wide rather than too narrow. It says how
    models vary, not how pools of images do.
    """
    rows = [auc(model, audit, **facts), over_targets(model, audit, audit.accuracies, metric="mia_accuracy", **facts)]
    for fpr in FPRS if audit.graded else ():
        found = [r.tpr_at(fpr) for r in audit.rocs]
        rows.append(over_targets(model, audit, found, metric="mia_tpr", fpr=fpr, threshold="oracle", **facts))
    return rows


def auc(model: str, audit: Audit, *, metric: str = "mia_auc", **facts: Any) -> Row:
    """The AUC of an attack, with its interval over targets as in :func:`leakage`."""
    return over_targets(model, audit, [r.auc for r in audit.rocs], metric=metric, **facts)


def over_targets(
    model: str, audit: Audit, values: Sequence[float], *, metric: str, least: float = 0.0, **facts: Any
) -> Row:
    """The mean of a figure of an attack, with its interval as in :func:`leakage`.

    Args:
        values: M, one a target; from ``least`` to 1.
        metric: what the figure is called.
        least: it can be; -1 for a difference of two rates.
    """
    m, n = audit.scores.shape
    wider = widening(m, 0 if audit.attack in SHADOWLESS else audit.shadows)
    centre = float(np.mean(values))
    half = wider * (student_t(values)[1] - centre)
    return row(
        model,
        metric,
        centre,
        (max(least, centre - half), min(1.0, centre + half)),
        n=n,
        models=m,
        interval="student-t, shared shadows" if wider > 1 else "student-t",
        attack=audit.attack,
        **facts,
    )


def single_target(model: str, scores: Tensor, members: Tensor, seed: int, **facts: Any) -> list[Row]:
    """What an attack learns from one target: AUC (bootstrap over images) and TPR (Clopper-Pearson).

    The TPR's interval is for the threshold that was read off these non-members: that with others it would lie elsewhere
    is left out.

    Args:
        scores: [N], higher for "member"; members: bool [N].
        seed: of the bootstrap.
    """
    s, truth = scores.numpy(force=True), members.numpy(force=True)
    curve = roc(s, truth)
    rows = [row(model, "mia_auc", curve.auc, area(s, truth, seed), n=len(s), interval="bootstrap", **facts)]
    for fpr in FPRS:
        bounds = curve.tpr_interval(fpr)
        rows.append(
            row(
                model,
                "mia_tpr",
                curve.tpr_at(fpr),
                bounds,
                n=curve.n_members,
                interval="clopper-pearson, threshold given",
                fpr=fpr,
                threshold="oracle",
                **facts,
            )
        )
    return rows


def survivors(
    models: Iterable[nn.Module],
    trial: Trial,
    images: Tensor,
    labels: Tensor,
    standing: Tensor,
    bar: Bar = unseen,
) -> Tensor:
    """Which images each model still classifies right when it is attacked.

    Args:
        models: M classifiers.
        trial: ``(model, images, labels) -> bool [N]``, e.g. :func:`labkit.attacks.withstand` with its settings.
        images: [N, 1, 28, 28] in [0, 1]; labels: [N].
        standing: bool [M, N], what is worth attacking: a point that an earlier attack broke stays broken.
        bar: of those.

    Returns:
        bool [M, N], within ``standing``; on the CPU.
    """
    left = standing.clone()
    with bar(int(left.sum())) as tick:
        for alive, model in zip(left, models, strict=True):
            points = alive.nonzero()[:, 0]
            if len(points):
                x, y = images[points.to(images.device)], labels[points.to(labels.device)]
                alive[points] = trial(model, x, y).cpu()
                tick(len(points))
    return left
