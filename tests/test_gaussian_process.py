"""Gaussian-process regression against its formulas."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from manynet.latency.gaussian_process import CONSTANT, GaussianProcess, Kernel, _Evidence

GENERATOR = np.random.default_rng(0)
ROWS = GENERATOR.normal(size=(25, 4))
TARGETS = np.sin(ROWS[:, 0]) + ROWS[:, 1] + 0.1 * GENERATOR.normal(size=25)
KERNEL = Kernel(
    linear=np.array([np.eye(4), np.diag([1.0, 0, 0, 1])]), places=np.eye(4), groups=np.array([0, 0, 1, 1])
)


def test_the_slope_of_the_evidence_is_that_of_its_differences() -> None:
    evidence = _Evidence(KERNEL, ROWS, TARGETS)
    for _ in range(3):
        at = GENERATOR.normal(-1, 1, size=len(KERNEL.priors[0]))
        expected = approx_fprime(at, lambda parameters: evidence.loss(parameters)[0], 1e-6)
        assert evidence.loss(at)[1] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_predictions_are_those_of_scikit_learn() -> None:
    kernel = Kernel(linear=np.eye(4)[None], places=np.eye(4), groups=np.zeros(4, dtype=int))
    linear, smooth, narrow, noise = 0.3, 0.8, 0.5, 0.02
    ours = GaussianProcess(kernel, ROWS, TARGETS, np.log([linear, smooth, narrow, noise]), 0.0)
    theirs = GaussianProcessRegressor(
        ConstantKernel(linear) * DotProduct(1e-9)
        + ConstantKernel(CONSTANT)
        + ConstantKernel(smooth) * RBF(narrow**-0.5)
        + WhiteKernel(noise),
        optimizer=None,
        alpha=0.0,
    ).fit(ROWS, TARGETS)
    new = GENERATOR.normal(size=(3000, 4))
    means, deviations = ours.predict(new)
    expected = theirs.predict(new, return_std=True)
    assert means == pytest.approx(expected[0], abs=1e-4)
    assert deviations == pytest.approx(expected[1], abs=1e-4)


def test_fitting_finds_the_noise() -> None:
    rows = GENERATOR.normal(size=(150, 4))
    targets = rows @ [0.5, -0.5, 0.3, 0.2] + 0.4 * GENERATOR.normal(size=150)
    process = GaussianProcess.fit(KERNEL, rows, targets)
    assert process.noise == pytest.approx(0.4, rel=0.25)
    assert process.evidence > -_Evidence(KERNEL, rows, targets).loss(KERNEL.priors[0])[0]
