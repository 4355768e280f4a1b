"""Evasion: adversarial images inside a ball *and* inside [0, 1], for any classifier.

``model`` is any ``nn.Module`` from images in [0, 1] to logits; normalisation lives inside it. An attack
runs the model in eval mode and leaves its mode, its parameters and their gradients as they were. On the CPU the
model is called from several threads at once, with a piece of the images each.
"""

from labkit.attacks.ascent import ascend, input_gradient
from labkit.attacks.autopgd import apgd, apgd_targeted
from labkit.attacks.boundary import boundary_distance, fab_targeted
from labkit.attacks.ensemble import STANDARD, Attack, Evaluation, autoattack, evaluate, standard
from labkit.attacks.gradient import fgsm, pgd, withstand
from labkit.attacks.promises import correct, eval_mode
from labkit.attacks.random_search import square

__all__ = [
    "STANDARD",
    "Attack",
    "Evaluation",
    "apgd",
    "apgd_targeted",
    "ascend",
    "autoattack",
    "boundary_distance",
    "correct",
    "eval_mode",
    "evaluate",
    "fab_targeted",
    "fgsm",
    "input_gradient",
    "pgd",
    "square",
    "standard",
    "withstand",
]
