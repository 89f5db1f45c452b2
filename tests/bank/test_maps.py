"""Image scores and maps without torch equal those of queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_nagl.bank import maps
from anomalib_nagl.core import functional

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_image_scores_equal_those_of_queries(seed: int) -> None:
    generator = np.random.default_rng(seed)
    score = generator.random((int(generator.integers(0, 4)), int(generator.integers(1, 900)))).astype(np.float32)
    found, expected = maps.image_score(score), functional.image_score(torch.from_numpy(score)).numpy()
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_smoothing_equals_that_of_queries(seed: int) -> None:
    generator = np.random.default_rng(seed)
    cells = int(generator.integers(1, 20))
    pixels = cells * int(generator.integers(1, 17))
    for sigma in (0.05, float(generator.uniform(0.2, 6))):
        found = maps.smoothing_matrix(cells, pixels, sigma)
        assert found.dtype == np.float32
        assert np.allclose(found, functional.smoothing_matrix(cells, pixels, sigma), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_maps_equal_those_of_queries(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, cols, count = (int(side) for side in generator.integers(1, 9, 3))
    score = generator.random((count, rows * cols)).astype(np.float32)
    down, right = maps.smoothing_matrix(rows, 8 * rows, 1.5), maps.smoothing_matrix(cols, 8 * cols, 1.5)
    expected = functional.anomaly_map(*map(torch.from_numpy, (score, down, right)))[:, 0]
    assert np.allclose(maps.anomaly_map(score, down, right), expected, atol=1e-6, rtol=0)
