"""Batch sizes: halved where memory runs out, with the results of the smaller batch."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from toys import NARROW, QUICK, smooth_images

from geolib import data, model
from geolib.ablation import faithfulness
from geolib.attribution import METHODS, attribute
from geolib.masks import box_region
from geolib.model.device import BatchSize, choose_batch_size, choose_device
from geolib.scoring import Elements

HALVED = [
    "out of memory with 16 images at once: going on with 8; batch_size=8 avoids the attempt",
    "out of memory with 8 images at once: going on with 4; batch_size=4 avoids the attempt",
]


@pytest.fixture(scope="module")
def classifier():
    return model.load(NARROW, weights="random", classes="ABC", image_size=64)


@pytest.fixture
def little_memory(monkeypatch):
    """No more than five images go through a classifier at once."""
    forward = model.Classifier.forward

    def limited(self, images):
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(self, images)

    monkeypatch.setattr(model.Classifier, "forward", limited)


def messages(caught):
    return [str(warning.message) for warning in caught if "memory" in str(warning.message)]


def fits(limit, tried, error):
    """A function of a batch size for which memory suffices up to a limit."""

    def function(size):
        tried.append(size)
        if size > limit:
            raise error
        return f"{size} at once"

    return function


def test_the_batch_is_halved_until_it_fits_and_stays_so():
    for error, sizes in [
        (torch.OutOfMemoryError("out of memory"), [21, 10, 5, 2]),
        (RuntimeError("CUDA out of memory"), [5, 2]),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), [5, 2]),
    ]:
        fitting, tried = BatchSize(sizes[0]), []
        with pytest.warns(UserWarning) as caught:
            assert fitting.run(fits(3, tried, error)) == "2 at once"
        assert len(messages(caught)) == len(sizes) - 1
        assert fitting.run(fits(3, tried, error)) == "2 at once"
        assert tried == [*sizes, 2]


def test_what_halving_cannot_mend():
    tried = []
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        BatchSize(2).run(fits(0, tried, torch.OutOfMemoryError("out of memory")))
    assert tried == [2, 1]
    with pytest.raises(RuntimeError, match="must match"):
        BatchSize(2).run(fits(0, tried, RuntimeError("sizes must match")))
    assert tried == [2, 1, 2]
    with pytest.raises(ValueError, match="batch_size=0; expected at least 1"):
        BatchSize(0)


def test_the_memory_of_the_failed_pass_is_free_before_the_next():
    held = []

    def function(size):
        assert all(reference() is None for reference in held)
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        if size > 1:
            raise torch.OutOfMemoryError(f"holding {tensor}")
        return size

    with pytest.warns(UserWarning):
        assert BatchSize(8).run(function) == 1


def test_default_batch_sizes():
    assert choose_batch_size("cpu") == BatchSize(None).images == 32
    assert choose_batch_size("cuda:1") == BatchSize(None, "cuda:1").images == 128


def halved(work):
    """Work with 16 images at once, for which memory is short, and with 4; what both return."""
    with pytest.warns(UserWarning) as caught:
        found = work(16)
    assert messages(caught) == HALVED
    return found, work(4)


def test_prediction(classifier, little_memory):
    scenes = data.load("geoscenes", "eval", 22, size=64)
    tables = halved(lambda n: model.predict(classifier, scenes, batch_size=n, progress=False))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("method", METHODS)
def test_attribution(classifier, method, little_memory):
    images, options = smooth_images(6), QUICK.get(method, {})

    def work(n):
        return attribute(classifier, images, method, batch_size=n, **options)

    asks = method not in ("random", "edges")
    found, expected = halved(work) if asks else (work(16), work(4))
    assert expected.std() > 0
    assert torch.equal(found, expected)


def test_ablation(classifier, little_memory):
    boxes = np.array([[2, 3, 30, 34], [40, 20, 61, 64]])
    masks = np.stack([box_region([box], (64, 64)) for box in boxes])
    given = classifier, smooth_images(3), None, [Elements(masks, boxes, pd.DataFrame())] * 3
    found, expected = halved(lambda n: faithfulness(*given, batch_size=n))
    assert len(expected) == 3 * (1 + 2 + 20 + 4)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_apples_gpu_is_left_out_where_float64_is_needed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    assert choose_device(float64=True).type == "cpu"
    assert choose_device("mps", float64=True).type == "mps"
