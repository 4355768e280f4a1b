"""Training a conditional VAE on a random half of the images, and drawing from it.

The objective is the evidence lower bound of Kingma and Welling (2014), conditioned on the label as in Sohn
et al. (2015), with a Bernoulli likelihood a pixel:

    ELBO(x | y) = -BCE - KL,  BCE = E_q(z|x,y) [ -sum_j x_j log p_j + (1 - x_j) log(1 - p_j) ],
    KL = KL( q(z | x, y) || N(0, I) ).

Both are in nats an image. The pixels are grey and not binary, so BCE never falls below the image's own entropy.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.data import Dataset
from labkit.device import derive, generator, numerics, training_dtype, training_precision
from labkit.generative.networks import CVAE, fresh
from labkit.progress import Bar, Tick, unseen
from labkit.store import Store, checksum, code_version
from labkit.training.capture import captured
from labkit.training.optimisers import warm_cosine
from labkit.workers import Crew, check_crew

CHUNK = 500  # images evaluated at once
WATCHED = 1000  # images of each half that the curves are measured on after every epoch


@dataclass(frozen=True)
class Recipe:
    """How a CVAE is trained: everything but the data and the seed.

    Attributes:
        latent: latent dimensions.
        epochs: passes over the members.
        learning_rate: peak of the schedule (AdamW): linear up over a fifth of the steps, then a half cosine to zero.
        batch_size: images a step.
        classes: number of classes.
    """

    latent: int
    epochs: int
    learning_rate: float
    batch_size: int = 64
    classes: int = 10


@dataclass(frozen=True)
class Trained:
    """A trained model and what is known about its training.

    Attributes:
        model: in eval mode, parameters frozen, float32.
        members: bool [N], on the CPU: the training images it was trained on (IN); the others are OUT.
        history: ``bce_in``, ``kl_in``, ``bce_out``, ``kl_out``: means in nats an image after each epoch, [E], over
            up to 1000 images of each half; ``entropy_in``, ``entropy_out``: of the same images, [].
        seconds: what the training took, as measured when it was done.
    """

    model: CVAE
    members: Tensor
    history: dict[str, Tensor]
    seconds: float


def split(n: int, generator: torch.Generator) -> Tensor:
    """A random half: bool [n] with exactly n // 2 true."""
    members = torch.zeros(n, dtype=torch.bool)
    members[torch.randperm(n, generator=generator)[: n // 2]] = True
    return members


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL( N(mean, exp(log_variance)) || N(0, I) ) in nats, [N], of two [N, D] (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def cross_entropy(logits: Tensor, images: Tensor) -> Tensor:
    """Bernoulli cross-entropy summed over an image's pixels, in nats, [N]."""
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)


def entropy(images: Tensor) -> Tensor:
    """The least cross-entropy that any model can reach on grey images [N, 1, 28, 28], in nats an image, [N]."""
    return F.binary_cross_entropy(images, images, reduction="none").flatten(1).sum(dim=1)


def fit(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    members: Tensor,
    *,
    seed: int,
    tick: Tick = lambda images: None,
) -> Trained:
    """Train on the members, and follow BCE and KL on both halves.

    The same arguments give the same result, bit for bit on the CPU, for the same number of cores. Trained in bf16 where
    the hardware has it; the curves are float32.

    Args:
        recipe: how.
        images: [N, 1, 28, 28] in [0, 1], on the device to train on; labels: int64 [N].
        members: bool [N], who is trained on.
        seed: of the weights, the order of the images and the noise.
        tick: called after each batch.

    Raises:
        ValueError: one of the two halves is empty.
        FloatingPointError: a training that diverged.
        Stopped: work beside it failed; see :class:`labkit.workers.Crew`.
    """
    inside, outside = (torch.nonzero(part)[:, 0].to(images.device) for part in (members, ~members))
    if not (len(inside) and len(outside)):
        raise ValueError(f"{len(inside)} images IN and {len(outside)} OUT; need one or more of each")
    started = time.perf_counter()
    model = fresh(recipe.latent, recipe.classes, seed=derive(seed, "weights"))
    model.to(images.device, memory_format=torch.channels_last)
    order = generator(seed, "order")
    noise = generator(seed, "noise", device=images.device)
    on_gpu = images.device.type == "cuda"
    weights = list(model.parameters())
    pace = images.new_zeros(())  # the learning rate, as a tensor: a captured step reads it anew
    optimiser = torch.optim.AdamW(weights, pace, fused=True, capturable=on_gpu)

    def step(chosen: Tensor, rate: Tensor) -> None:
        """One step on the images of indices [B], at a learning rate []."""
        x, y = images[chosen], labels[chosen]
        draws = torch.randn(len(chosen), recipe.latent, generator=noise, device=images.device)  # [B, D]
        with training_precision(images.device):
            logits, mean, log_variance = model(x, y, draws)
        loss = (cross_entropy(logits, x) + kl_divergence(mean, log_variance)).mean()
        for part, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            part.grad = slope
        pace.copy_(rate)
        optimiser.step()

    run = captured(step, [noise]) if on_gpu else step
    steps = recipe.epochs * math.ceil(len(inside) / recipe.batch_size)
    rates = iter(recipe.learning_rate * images.new_tensor([warm_cosine(t, steps) for t in range(steps)]))
    watched = {"in": inside[:WATCHED], "out": outside[:WATCHED]}
    history: dict[str, list[float]] = {f"{term}_{part}": [] for part in watched for term in ("bce", "kl")}
    for epoch in range(1, recipe.epochs + 1):
        shuffled = inside[torch.randperm(len(inside), generator=order).to(images.device)]
        for chosen in shuffled.split(recipe.batch_size):
            run(chosen, next(rates))
            check_crew()
            tick(len(chosen))
        for part, chosen in watched.items():
            bce, kl = elbo_terms(model, images[chosen], labels[chosen], seed=derive(seed, "curve"))
            history[f"bce_{part}"].append(bce.mean().item())
            history[f"kl_{part}"].append(kl.mean().item())
        if not math.isfinite(history["bce_in"][-1] + history["kl_in"][-1]):
            raise FloatingPointError(
                f"the CVAE's loss is not finite after epoch {epoch} of {recipe.epochs}; "
                f"lower cvae_learning_rate = {recipe.learning_rate:g}"
            )
    curves = {name: torch.tensor(values) for name, values in history.items()}
    curves |= {f"entropy_{part}": entropy(images[chosen]).mean().cpu() for part, chosen in watched.items()}
    return Trained(model.eval().requires_grad_(False), members.cpu(), curves, time.perf_counter() - started)


def train(
    recipe: Recipe,
    data: Dataset,
    members: Tensor,
    *,
    seed: int,
    store: Store,
    bar: Bar = unseen,
) -> Trained:
    """:func:`fit` on a dataset's training images, on their device, or what the store has of it.

    Of a CPU it takes one core: a second would save a fifth of the time (measured), and the result would depend on it.
    """
    device = data.train.pixels.device

    def make() -> tuple[dict[str, Tensor], dict]:
        with Crew(1), bar(recipe.epochs * int(members.sum())) as tick:
            made = fit(recipe, data.train.images, data.train.labels, members, seed=seed, tick=tick)
        weights = {f"model.{name}": tensor for name, tensor in made.model.state_dict().items()}
        curves = {f"history.{name}": tensor for name, tensor in made.history.items()}
        return weights | curves, {"seconds": made.seconds}

    key = {
        "recipe": asdict(recipe),
        "data": data.sha256,
        "members": checksum(members),
        "seed": seed,
        "dtype": str(training_dtype(device)),
        **numerics(device),
        "code": code_version(__name__),
    }
    tensors, facts = store.get("cvae", key, make)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "history": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    with torch.device("meta"):
        model = CVAE(recipe.latent, recipe.classes)
    model.load_state_dict(parts["model"], assign=True)
    model.to(device).eval().requires_grad_(False)
    return Trained(model, members.cpu(), parts["history"], facts["seconds"])


@torch.no_grad()
def elbo_terms(model: CVAE, images: Tensor, labels: Tensor, *, seed: int, samples: int = 1) -> tuple[Tensor, Tensor]:
    """BCE [samples, N], one row a latent draw, and KL [N], in nats an image; the ELBO is -BCE - KL.

    Every image has noise of its own, so that the result does not depend on how images are chunked.
    """
    draw = generator(seed, "latents", device=images.device)
    noise = torch.randn(len(images), samples, model.latent, generator=draw, device=images.device)  # [N, L, D]
    bce, kl = [], []
    for x, y, draws in zip(images.split(CHUNK), labels.split(CHUNK), noise.split(CHUNK), strict=True):
        mean, log_variance = model.encode(x, y)
        scale = (log_variance / 2).exp()
        bce.append(torch.stack([cross_entropy(model.decode(mean + scale * e, y), x) for e in draws.unbind(1)]))
        kl.append(kl_divergence(mean, log_variance))
    return torch.cat(bce, dim=1), torch.cat(kl)


@torch.no_grad()
def reconstruct(model: CVAE, images: Tensor, labels: Tensor) -> Tensor:
    """Decoded from the mean of q(z | x, y), in [0, 1], of the images' shape."""
    pieces = zip(images.split(CHUNK), labels.split(CHUNK), strict=True)
    return torch.cat([model.decode(model.encode(x, y)[0], y).sigmoid() for x, y in pieces])


@torch.no_grad()
def sample(model: CVAE, labels: Tensor, draw: torch.Generator) -> Tensor:
    """New images of the classes ``labels`` [N]: the pixels' means at z from N(0, I), [N, 1, 28, 28] in [0, 1]."""
    latents = torch.randn(len(labels), model.latent, generator=draw, device=draw.device).to(labels.device)  # [N, D]
    return model.decode(latents, labels).sigmoid()
