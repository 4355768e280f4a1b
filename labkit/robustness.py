"""Which images of a test set each model of an ensemble still gets right: attacked now, or found in the store.

An evaluation is a value, as a training is: the model, the images, the attacks and the radius determine it. So what took
an hour is not done twice, and a run that is killed goes on with the next model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from labkit.attacks import Attack, correct, evaluate, pgd
from labkit.attacks.promises import outputs
from labkit.device import generator, numerics
from labkit.identity import classes, described, fingerprint, home
from labkit.progress import Bar, Tick, unseen
from labkit.store import Store, checksum, code_version

STANDS = -1

Measure = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, labels) -> [N, ...]


@dataclass(frozen=True)
class Survival:
    """What became of N images in M models under several attacks, one after another.

    Attributes:
        attacks: their names, in order.
        right: bool [M, N], what is classified right without an attack.
        fell: int8 [M, N], the attack that broke the image, by its place in ``attacks``; -1 where none did.
    """

    attacks: tuple[str, ...]
    right: Tensor
    fell: Tensor

    @property
    def stands(self) -> Tensor:
        """Right without an attack and under all of them: bool [M, N]."""
        return self.right & (self.fell == STANDS)

    def after(self, attack: str) -> Tensor:
        """Right without an attack, under this one and under those before it: bool [M, N]."""
        place = self.attacks.index(attack)
        return self.right & ((self.fell == STANDS) | (self.fell > place))

    def taken(self, attack: str) -> Tensor:
        """Broken by this attack and by none before it: bool [M, N]."""
        return self.right & (self.fell == self.attacks.index(attack))

    def then(self, later: Survival) -> Survival:
        """The same images, first under these attacks and then, where they stand, under ``later``'s.

        Attacks of the same name count as one: a model may be attacked through several modules that decide alike.
        """
        names = tuple(dict.fromkeys(self.attacks + later.attacks))
        place = torch.tensor([names.index(name) for name in later.attacks] + [STANDS], dtype=torch.int8)
        return replace(self, attacks=names, fell=torch.where(self.stands, place[later.fell.long()], self.fell))


def survive(
    faces: Sequence[Sequence[nn.Module]],
    attacks: Mapping[str, Attack],
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    store: Store,
    standing: Tensor | None = None,
    bar: Bar = unseen,
) -> Survival:
    """Attack M models on N images, or take what came of it from the store.

    Args:
        faces: M classifiers of images in [0, 1] each, through which the same M models are attacked in turn: all faces
            decide alike, and an image counts as robust only if it survives behind every one. Most models have one.
        attacks: by name, in order; functions of labkit's, or ``functools.partial`` of them: their names and settings
            are part of the store's key.
        images: [N, ...] in [0, 1], float32; labels: [N].
        eps: l-infinity radius.
        store: where evaluations lie.
        standing: bool [M, N], the images worth attacking; all by default. The others count as they are without an
            attack.
        bar: shown, for the models behind each face, where there is something to attack; an image counts once an attack.
    """
    left = torch.ones(len(faces[0]), len(images), dtype=torch.bool) if standing is None else standing.cpu()
    found: Survival | None = None
    for models in faces:
        behind = _behind(models, attacks, images, labels, eps, left, store, bar)
        found = behind if found is None else found.then(behind)
        left = left & found.stands
    return found


def _behind(
    models: Sequence[nn.Module],
    attacks: Mapping[str, Attack],
    images: Tensor,
    labels: Tensor,
    eps: float,
    standing: Tensor,
    store: Store,
    bar: Bar,
) -> Survival:
    """Of M models, each behind one face; the images that are ``standing``, bool [M, N], are attacked."""
    homes = sorted({home(attack) for attack in attacks.values()})
    keys = [
        {
            "model": fingerprint(model),
            "attacks": {name: described(attack) for name, attack in attacks.items()},
            "images": checksum(images, labels, chosen),
            "eps": eps,
            **numerics(images.device),
            "code": code_version(__name__, *classes(model), *homes),
        }
        for model, chosen in zip(models, standing, strict=True)
    ]

    def make(index: int, tick: Tick) -> tuple[dict[str, Tensor], dict]:
        model, at = models[index], standing[index].nonzero()[:, 0]
        fell = torch.full((len(images),), STANDS, dtype=torch.int8)
        if len(at):
            part = at.to(images.device)
            found = evaluate(model, images[part], labels[part], attacks, eps, tick=tick)
            for place, broken in enumerate(found.fell.values()):
                fell[at[broken.cpu()]] = place
        return {"right": correct(model, images, labels), "fell": fell}, {}

    sizes = (standing.sum(1) * len(attacks)).tolist()
    rows = [tensors for tensors, _ in store.gather("evaluation", keys, make, sizes, bar)]
    return Survival(tuple(attacks), *(torch.stack([row[part] for row in rows]) for part in ("right", "fell")))


def measured(
    measure: Measure,
    models: Iterable[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    store: Store,
    bar: Bar = unseen,
) -> Tensor:
    """What ``measure`` finds of N images in each of M models: [M, N, ...] on the CPU, from the store or found now.

    Args:
        measure: ``(model, images, labels) -> [N, ...]``; a function of labkit's, or ``functools.partial`` of one: its
            name and settings are part of the store's key.
        models: M classifiers.
        images: [N, ...] in [0, 1], float32; labels: [N].
        store: where what was found lies.
        bar: shown where there is something to find.
    """
    models, shown = list(models), checksum(images, labels)
    keys = [
        {
            "model": fingerprint(model),
            "measure": described(measure),
            "images": shown,
            **numerics(images.device),
            "code": code_version(__name__, *classes(model), home(measure)),
        }
        for model in models
    ]

    def make(index: int, tick: Tick) -> tuple[dict[str, Tensor], dict]:
        found = measure(models[index], images, labels)
        tick(len(images))
        return {"found": found}, {}

    entries = store.gather("measurement", keys, make, [len(images)] * len(models), bar)
    return torch.stack([tensors["found"] for tensors, _ in entries])


def answers(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Logits [N, C]: what a model says of images, whatever their labels."""
    return outputs(model, images)


def under_pgd(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int) -> Tensor:
    """Logits [N, C] where PGD ends: what a model says of an adversarial input of its own."""
    return outputs(model, pgd(model, images, labels, eps, steps=steps, seed=seed))


def steadiness(model: nn.Module, images: Tensor, labels: Tensor, *, scale: float, queries: int, seed: int) -> Tensor:
    """Share of an image's noisy copies that are classified right: [N].

    One thing that an attacker sees who is told classes and nothing else (Choquette-Choo et al. 2021, section 4.2).

    Args:
        scale: standard deviation of the noise on pixels, which are then brought back into [0, 1].
        queries: copies of each image; all models see the same ones.
        seed: of the noise.
    """
    draw, right = generator(seed, "noise", device=images.device), torch.zeros(len(images), device=images.device)
    for _ in range(queries):
        noise = torch.randn(images.shape, generator=draw, device=images.device)
        right += correct(model, (images + scale * noise).clamp(0, 1), labels).float()
    return right / queries
