"""What a measurement is found again under, and what checksums see."""

from functools import partial

import torch
from torch import nn

from labkit.robustness import measured
from labkit.store import Store, checksum, code_version


def missed(model, images, labels):
    """Which images are misclassified; its answer depends on the labels."""
    return (model(images).argmax(1) != labels).float()


def test_a_measurement_is_of_these_images_with_these_labels(tmp_path):
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.rand(6, 1, 2, 2)
    right = model(images).argmax(1)
    for labels, expected in ((right, 0.0), ((right + 1) % 3, 1.0)):
        found = measured(missed, [model], images, labels, store=Store(tmp_path))
        assert (found == expected).all()


def test_a_checksum_sees_shape_and_type():
    bits = torch.arange(6, dtype=torch.int32)
    sums = {checksum(t) for t in (bits, bits.view(2, 3), bits.view(3, 2), bits.view(torch.float32))}
    assert len(sums) == 4
    one, two = torch.arange(2), torch.arange(4)
    assert checksum(one, two) != checksum(torch.cat([one, two]))


def test_another_torch_is_another_version_of_the_code(monkeypatch):
    found = code_version("labkit.intervals")
    code_version.cache_clear()
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert code_version("labkit.intervals") != found
    code_version.cache_clear()


def times(model, images, labels, *, by):
    """A figure an image that depends on a setting."""
    return torch.full((len(images),), float(by))


def test_a_measurement_is_of_one_setting(tmp_path):
    model, images, labels = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2), torch.zeros(2).long()
    for by in (1, 2):
        assert (measured(partial(times, by=by), [model], images, labels, store=Store(tmp_path)) == by).all()
