"""Rows of the randomised SVD: beside scikit-learn's, and beside all singular values and vectors of numpy."""

from __future__ import annotations

import numpy as np
from models import Size
from row import NotRun, Row

import lowrank_edu as lo

try:
    from sklearn.utils.extmath import randomized_svd as theirs
except ImportError:
    theirs = None
OVERSAMPLE, POWERS = 20, 2


def randomised_svd(size: Size, side=None, target=0.008, rounds=3):
    """A falling spectrum, r = 32, with the same numbers of extra columns and of power iterations."""
    side = side or size.square
    r, rng = min(32, side), np.random.default_rng(0)
    decay = 1 / (1 + np.arange(side, dtype=np.float32))
    U, V = (np.linalg.qr(rng.standard_normal((side, side), dtype=np.float32)).Q for _ in "UV")
    W = (U * decay) @ V.T

    def sklearn(normaliser):
        return lambda: theirs(W, r, n_oversamples=OVERSAMPLE, n_iter=POWERS, power_iteration_normalizer=normaliser,
                              random_state=0)  # fmt: skip

    missing = NotRun("scikit-learn is not installed")
    works = {
        "ours": lambda: lo.factor.randomized_svd(W, r, oversample=OVERSAMPLE, power_iterations=POWERS, rng=0),
        "scikit-learn": sklearn("auto") if theirs else missing,
        "scikit-learn, QR": sklearn("QR") if theirs else missing,
        "numpy": lambda: np.linalg.svd(W, full_matrices=False),
    }
    ratios = [("ours / numpy", "ours", "numpy", target), ("ours / scikit-learn", "ours", "scikit-learn", None),
              ("ours / scikit-learn, QR", "ours", "scikit-learn, QR", None)]  # fmt: skip
    best = float(np.sqrt((decay[r:].astype(np.float64) ** 2).sum()))
    facts = {
        f"residual of {name} / best possible": float(np.linalg.norm(W - lo.factor.reconstruct(*work()))) / best
        for name, work in works.items() if name != "numpy" and callable(work) and best
    }  # fmt: skip
    note = ("between so few iterations scikit-learn leaves QR out; told to use it, it does what ours does. It calls "
            "two copies of OpenBLAS, numpy's and scipy's, and their threads are in each other's way")  # fmt: skip
    why = {"ours / numpy": "six QRs of tall matrices. They run in blocks on one thread: on two, OpenBLAS's threads "
           "wait for each other, in some processes four times as long as they work."}  # fmt: skip
    return Row(f"randomised SVD, r=32, {side}²", works, ratios, note, facts=facts, why=why, rounds=rounds)


def randomised_svd_small(size: Size):
    return randomised_svd(size, min(768, size.square), 1 / 15, rounds=None)
