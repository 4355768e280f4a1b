"""What tests of attacks share: models whose worst case is known exactly, small networks, and a table of all attacks."""

from functools import partial

import torch
from torch import nn

from labkit.attacks import apgd, apgd_targeted, autoattack, fab_targeted, fgsm, pgd, square

ATTACKS = {
    "fgsm": fgsm,
    "pgd ce": partial(pgd, steps=10),
    "pgd margin": partial(pgd, steps=10, loss="margin"),
    "pgd dlr": partial(pgd, steps=10, loss="dlr"),
    "apgd ce": partial(apgd, steps=40),
    "apgd margin": partial(apgd, steps=40, loss="margin"),
    "apgd dlr": partial(apgd, steps=40, loss="dlr"),
    "apgd-t": partial(apgd_targeted, steps=60),
    "fab-t": partial(fab_targeted, steps=40),
    "square": partial(square, queries=1500),
    "autoattack": autoattack,
}


class Linear(nn.Module):
    """Several classes, logits W x + b: for each target the worst case in ball and box is a corner, known exactly."""

    def __init__(self, classes=5, pixels=36, seed=0, dropout=0.0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(classes, pixels, generator=g) / 4)
        self.b = nn.Parameter(-self.w.detach().sum(1) / 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(x.flatten(1)) @ self.w.T + self.b

    def worst_margin(self, x, y, eps):
        """The least of z_y - z_t over ball, box and targets t, [N]; negative where the point can be broken."""
        flat, w, margins = x.flatten(1), self.w.detach(), []
        for t in range(len(w)):
            away = w[t] - w[y]  # [N, D]
            corner = (flat + eps * away.sign()).clamp(0, 1)
            margins.append(((w[y] - w[t]) * corner).sum(1) + self.b.detach()[y] - self.b.detach()[t])
        return torch.stack(margins, 1).scatter(1, y[:, None], torch.inf).amin(1)

    def distance(self, x, y):
        """To the nearest point of another class, [N]: each target's corners sorted, pixel after pixel."""
        found = []
        for point, label in zip(x.flatten(1).double(), y.tolist(), strict=True):
            w, b = self.w.detach().double(), self.b.detach().double()
            gaps = []
            for t in range(len(w)):
                if t == label:
                    continue
                away = w[t] - w[label]
                need = ((w[label] - w[t]) @ point + b[label] - b[t]).item()
                rooms = torch.where(away > 0, 1 - point, point)
                gaps.append(walked(rooms.tolist(), away.abs().tolist(), need))
            found.append(min(gaps))
        return torch.tensor(found)


def walked(rooms, pulls, need):
    """How far all pixels must move together until they have gained ``need``; each stops at its room."""
    if need == 0:
        return 0.0
    gained, at = 0.0, 0.0
    order = sorted(range(len(rooms)), key=lambda i: rooms[i])
    pull = sum(pulls)
    for i in order:
        if gained + pull * (rooms[i] - at) >= need:
            return at + (need - gained) / pull
        gained += pull * (rooms[i] - at)
        at = rooms[i]
        pull -= pulls[i]
    return float("inf")


def images(n=40, shape=(1, 6, 6), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def network(shape=(1, 6, 6), classes=5, seed=0):
    torch.manual_seed(seed)
    pixels = int(torch.tensor(shape).prod())
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.Tanh(), nn.Linear(24, classes))
