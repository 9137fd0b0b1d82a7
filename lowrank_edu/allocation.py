"""Which layers deserve the rank, read off the pretrained weights alone?  numpy only · taught in chapter 12.

LaMDA++ (Azizi et al. 2024) allocates ranks by "normalised spectrum analysis". Its published text does not fix the
formula, the set of ranks or the budget, and its order is reported in two ways: this file is our reconstruction.
"""

import numpy as np

from .factor import _count, _spectrum

ORDERS = ("flat-first", "steep-first")


def energy_at(S, k):
    """E(k) = Σ_{i ≤ k} σ_i² / Σ σ_i²: share of the energy in the first k of the singular values S. Zero matrix: 1."""
    S, k = _spectrum(S), _count(k, "k")
    S = S / S[0] if S[0] > 0 else S  # squares of σ/σ_1 neither overflow nor vanish
    total = float(np.sum(S**2))
    return float(np.sum(S[:k] ** 2)) / total if total > 0 else 1.0


def allocate(spectra, ranks, budget, *, reference, order="flat-first"):
    """{layer: rank} with Σ r² ≤ budget, from {layer: singular values, falling}.

    The layers are sorted by E(reference). In this order each takes the largest of the allowed `ranks` that leaves
    enough for all that follow to have the smallest.

    flat-first    low E first: a flat spectrum needs more directions to be covered
    steep-first   high E first: layers that rank reduction hurts least get more, as a second account of LaMDA++ has it

    Equal energies keep the order of `spectra`. The budget counts the trained numbers of square cores r × r. It is
    never exceeded; what is left over is less than the next larger rank of the last layer would cost, or every layer
    has the largest rank that it can have. No layer gets more ranks than it has singular values.
    ValueError: no layer, no rank, or the smallest rank everywhere costs more than the budget.
    """
    if order not in ORDERS:
        raise ValueError(f"order={order!r} is not one of {', '.join(ORDERS)}.")
    ranks = sorted({_count(r, "a rank in ranks") for r in ranks})
    if not ranks or not spectra:
        raise ValueError(f"{len(spectra)} layers and ranks={ranks}: give at least one of both.")
    reference, budget, least = _count(reference, "reference"), _count(budget, "budget"), ranks[0]
    short = next((name for name, S in spectra.items() if len(S) < least), None)
    if short is not None:
        raise ValueError(f"{short} has {len(spectra[short])} directions, fewer than the smallest rank {least}. "
                         "Allow a smaller rank, or leave the layer out.")
    left = budget - len(spectra) * least**2
    if left < 0:
        raise ValueError(f"budget={budget}: rank {least} on each of {len(spectra)} layers costs "
                         f"{len(spectra) * least**2} already. Allow a smaller rank or a larger budget.")
    energy = {name: energy_at(S, reference) for name, S in spectra.items()}
    chosen = {}
    for name in sorted(spectra, key=energy.get, reverse=order == "steep-first"):  # sorting keeps ties in order
        fits = [r for r in ranks if r <= len(spectra[name]) and r**2 - least**2 <= left]
        chosen[name] = fits[-1]
        left -= fits[-1] ** 2 - least**2
    return {name: chosen[name] for name in spectra}
