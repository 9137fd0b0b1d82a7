"""Exercises of chapter 4: starts and scales."""

import numpy as np

from ..checking import Exercise, Mistake


# ---- the two gradients -------------------------------------------------------------------------------------
def factor_gradients(x, G, A, B, scale):
    """∂loss/∂A (r, d_in) and ∂loss/∂B (d_out, r), from x (n, d_in) and G = ∂loss/∂h (n, d_out)."""
    grad_A = scale * (G @ B).T @ x  # G goes back through B: (n, d_out) -> (n, r), then meets x
    grad_B = scale * G.T @ (x @ A.T)  # x goes forward through A: (n, d_in) -> (n, r), then meets G
    return grad_A, grad_B


def _gradient_cases(rng):
    draw = rng.normal
    return [
        (draw(size=(n, d_in)), draw(size=(n, d_out)), draw(size=(r, d_in)), draw(size=(d_out, r)), scale)
        for n, d_out, d_in, r, scale in [(4, 5, 3, 2, 2.0), (2, 4, 7, 3, 0.25), (6, 3, 8, 2, 16.0)]
    ]


def _from_one_factor(x, G, A, B, scale):
    dW = scale * G.T @ x  # (d_out, d_in), right so far
    return A * (dW.sum() / A.size), B * (dW.sum() / B.size)


GRADIENTS = Exercise(
    id="ch04-gradients",
    title="The gradient of each factor",
    kind="code",
    difficulty=2,
    minutes=10,
    needs="the chain rule for a matrix product",
    know="why two zeros never wake up",
    reference=factor_gradients,
    cases=_gradient_cases,
    mistakes=[
        Mistake(
            "no scale",
            lambda x, G, A, B, scale: ((G @ B).T @ x, G.T @ (x @ A.T)),
            "Both directions are right, both lengths miss the factor `scale`. h contains scale · B A x, and "
            "a factor in the forward pass is a factor in every gradient behind it.",
        ),
        Mistake(
            "scale in A only",
            lambda x, G, A, B, scale: (scale * (G @ B).T @ x, G.T @ (x @ A.T)),
            "grad_A is right. grad_B misses `scale`: the knob sits on the product, so both factors feel it.",
        ),
        Mistake(
            "scale in B only",
            lambda x, G, A, B, scale: ((G @ B).T @ x, scale * G.T @ (x @ A.T)),
            "grad_B is right. grad_A misses `scale`: the knob sits on the product, so both factors feel it.",
        ),
        Mistake(
            "order",
            lambda x, G, A, B, scale: (scale * G.T @ (x @ A.T), scale * (G @ B).T @ x),
            "Two right gradients in the wrong order: return grad_A first, then grad_B.",
        ),
        Mistake(
            "transposed",
            lambda x, G, A, B, scale: (scale * x.T @ (G @ B), scale * (x @ A.T).T @ G),
            "Every number is right and both gradients are transposed. A gradient has the shape of what it "
            "moves: grad_A is r × d_in like A, grad_B is d_out × r like B.",
        ),
        Mistake(
            "mean",
            lambda x, G, A, B, scale: tuple(g / len(x) for g in factor_gradients(x, G, A, B, scale)),
            "You divided by the number of rows. If the loss is a mean, that division is already inside G; "
            "here the rows only add up.",
        ),
        Mistake(
            "whole matrix",
            lambda x, G, A, B, scale: (scale * G.T @ x, scale * G.T @ x),
            "scale · Gᵀ x is the gradient of a whole matrix W (d_out × d_in). Multiply it by Bᵀ from the "
            "left to get the gradient of A, and by Aᵀ from the right to get that of B.",
        ),
        Mistake(
            "own factor",
            _from_one_factor,
            "Your grad_A is built from A and your grad_B from B. It is the other way round: what A should do "
            "depends on what B will make of it.",
        ),
    ],
    praise="grad_A contains B, grad_B contains A. Put two zeros in and read off what happens.",
)

# ---- which start is dead? ----------------------------------------------------------------------------------
DEAD = Exercise(
    id="ch04-dead",
    title="The start where nothing ever learns",
    kind="choice",
    difficulty=1,
    minutes=3,
    needs="the two gradients",
    know="how to tell a quiet start from a dead one",
    reference="3",
    options=("1", "2", "3", "4", "5"),  # not letters: A and B are the factors
    mistakes=[
        Mistake(
            "B zero",
            "1",
            "That is the usual start, and it learns. grad_A is zero at the first step, because it contains "
            "B; grad_B contains A, which is random. After one step B is no longer zero.",
        ),
        Mistake(
            "A zero",
            "2",
            "The mirror image of the usual start. Now grad_B is zero at the first step and grad_A is not, "
            "so A moves first. One random factor is enough.",
        ),
        Mistake(
            "orthogonal",
            "4",
            "Here B A = 0 although neither factor is zero, so both gradients are alive at the first step. A "
            "product of zero says nothing yet: look at the factors.",
        ),
        Mistake(
            "residual",
            "5",
            "ΔW is zero because a frozen copy of the product is subtracted. The trained factors themselves "
            "are far from zero, so both gradients are alive at the first step.",
        ),
    ],
    praise="Each gradient is multiplied by the other factor, and both factors are zero.",
)

# ---- α arithmetic ------------------------------------------------------------------------------------------
ALPHA = Exercise(
    id="ch04-alpha",
    title="Another rank, the same loudness",
    kind="number",
    difficulty=1,
    minutes=4,
    needs="α/r and α/√r",
    know="how to carry an α from one rule to the other",
    reference=32.0,
    mistakes=[
        Mistake(
            "unchanged",
            16.0,
            "With α left at 16 the scale is 16/√256 = 1, half of what it was. Changing the rule changes the "
            "volume.",
        ),
        Mistake(
            "α/r",
            512.0,
            "512/256 is 2, so this is right for α/r. But the new adapter divides by √256 = 16, and 512/16 "
            "is 32: sixteen times too loud.",
        ),
        Mistake("scale", 2.0, "2 is the scale itself. Which α gives 2 after it is divided by √256?"),
        Mistake(
            "both √",
            lambda a: abs(a - 16 * 32**0.5) < 0.6,
            "This takes the old scale as 16/√8. The old adapter was trained with α/r, so its scale is 16/8 "
            "= 2.",
        ),
        Mistake(
            "divided",
            0.125,
            "You divided the scale by √r. Solve α/√r = 2 for α: multiply.",
        ),
        Mistake(
            "no root",
            8192.0,
            "The product of the right answer and r. In α/√r = 2 the rank enters once, under the root.",
        ),
        Mistake(
            "proportion",
            lambda a: abs(a - 0.5) < 1e-9,
            "You made α smaller because r grew. The rule divides by √r already; α has to make up for it, so "
            "it grows.",
        ),
    ],
    praise="α = 2 · √256. The same number in two configurations can mean two volumes.",
)


# ---- PiSSA -------------------------------------------------------------------------------------------------
def pissa_start(W0, r, scale):
    """A (r, d_in), B (d_out, r) and what they leave over, W0 − scale · B A (d_out, d_in)."""
    U, S, Vt = np.linalg.svd(W0, full_matrices=False)
    root = np.sqrt(S[:r] / scale)
    A = root[:, None] * Vt[:r]
    B = U[:, :r] * root
    return A, B, W0 - scale * B @ A


def _pissa(split, keep=slice(None), residual=lambda W0, BA, scale: W0 - scale * BA):
    """A variant of pissa_start: `split(S, scale)` gives the weights of A and of B, `keep` reorders the σ."""

    def start(W0, r, scale):
        U, S, Vt = np.linalg.svd(W0, full_matrices=False)
        U, S, Vt = U[:, keep][:, :r], S[keep][:r], Vt[keep][:r]
        a, b = split(S, scale)
        A, B = a[:, None] * Vt, U * b
        return A, B, residual(W0, B @ A, scale)

    return start


def _half(S, scale):
    return np.sqrt(S / scale), np.sqrt(S / scale)


def _look(answer, W0, r, scale):
    """What does not depend on the signs of singular vectors: the product, the two Gram matrices, the rest."""
    parts = answer(W0, r, scale)
    if not isinstance(parts, (tuple, list)) or len(parts) != 3 or any(p is ... for p in parts):
        return parts
    A, B, residual = parts
    return {"scale · B A": scale * B @ A, "A Aᵀ": A @ A.T, "Bᵀ B": B.T @ B, "residual": residual}


PISSA = Exercise(
    id="ch04-pissa",
    title="Start from the spectrum of W0",
    kind="code",
    difficulty=3,
    minutes=12,
    needs="the SVD of chapter 1",
    know="how a start can be far from zero and still change nothing",
    reference=pissa_start,
    run=_look,
    cases=lambda rng: [
        (rng.normal(size=shape), r, scale)
        for shape, r, scale in [((5, 3), 2, 2.0), ((4, 7), 3, 0.25), ((6, 9), 2, 8.0)]
    ],
    mistakes=[
        Mistake(
            "no scale",
            _pissa(lambda S, scale: (np.sqrt(S), np.sqrt(S))),
            "A and B multiply to the best copy of W0 before the scale is applied, so scale · B A is `scale` "
            "times too loud, and the residual makes up for it. Divide S by the scale before you take the "
            "root.",
        ),
        Mistake(
            "lopsided",
            _pissa(lambda S, scale: (np.ones_like(S), S / scale)),
            "The product is right and the split is not: all of σ went into B. Give each factor the root of "
            "S/scale, so that both are equally large and take equal steps.",
        ),
        Mistake(
            "lopsided A",
            _pissa(lambda S, scale: (S / scale, np.ones_like(S))),
            "The product is right and the split is not: all of σ went into A. Give each factor the root of "
            "S/scale, so that both are equally large and take equal steps.",
        ),
        Mistake(
            "no root",
            _pissa(lambda S, scale: (S / scale, S / scale)),
            "Both factors carry the whole of S/scale, so the product carries its square. Each takes the "
            "root.",
        ),
        Mistake(
            "scale outside the root",
            _pissa(lambda S, scale: (np.sqrt(S) / scale, np.sqrt(S) / scale)),
            "√S/scale in both factors divides by scale²; the product is then multiplied by scale only once. "
            "Put the scale under the root: √(S/scale).",
        ),
        Mistake(
            "smallest",
            _pissa(_half, keep=slice(None, None, -1)),
            "These are the smallest singular values. PiSSA takes the principal ones, the first r; S comes "
            "sorted, largest first.",
        ),
        Mistake(
            "residual forgotten",
            _pissa(_half, residual=lambda W0, BA, scale: W0),
            "A and B are right, and the third part is W0 itself. Then W0 + scale · B A counts the largest "
            "directions twice, and the model does not start as itself. Subtract scale · B A.",
        ),
        Mistake(
            "residual unscaled",
            _pissa(_half, residual=lambda W0, BA, scale: W0 - BA),
            "A and B are right. The residual subtracts B A, but the layer adds scale · B A: the start is "
            "exact only when scale = 1.",
        ),
        Mistake(
            "residual added",
            _pissa(_half, residual=lambda W0, BA, scale: W0 + scale * BA),
            "A and B are right. The residual is what is left of W0 when scale · B A is taken away: minus, "
            "not plus.",
        ),
    ],
    praise="W0 = residual + scale · B A, and the signs of the singular vectors do not matter.",
)


# ---- find the bug ------------------------------------------------------------------------------------------
def adapted(x, W0, A, B, A0, B0, alpha, r):
    """W0 x + scale · (B A − B0 A0) x for each row of x (n, d_in) -> (n, d_out)."""
    scale = alpha / r
    now = x @ A.T @ B.T
    start = x @ A0.T @ B0.T
    return x @ W0.T + scale * (now - start)


def _adapted(change):
    """A wrong version: change(now, start, alpha, r) instead of scale · (now − start)."""

    def layer(x, W0, A, B, A0, B0, alpha, r):
        return x @ W0.T + change(x @ A.T @ B.T, x @ A0.T @ B0.T, alpha, r)

    return layer


def _layer_cases(rng):
    draw = rng.normal
    return [
        (
            *(draw(size=(n, d_in)), draw(size=(d_out, d_in)), draw(size=(r, d_in)), draw(size=(d_out, r))),
            *(draw(size=(r, d_in)), draw(size=(d_out, r)), alpha, r),
        )
        for n, d_out, d_in, r, alpha in [(3, 5, 4, 2, 16.0), (2, 4, 7, 3, 8.0), (4, 3, 6, 2, 1.0)]
    ]


BUG = Exercise(
    id="ch04-bug",
    title="Find the bug: it passes every test with α = r",
    kind="find-the-bug",
    difficulty=2,
    minutes=6,
    needs="ΔW = scale · (B A − B0 A0)",
    know="how a scale gets lost, or used twice",
    reference=adapted,
    cases=_layer_cases,
    mistakes=[
        Mistake(
            "as given",
            _adapted(lambda now, start, alpha, r: (alpha / r) ** 2 * now - alpha / r * start),
            "The trained product is `(α/r)²` loud and the start is `α/r` loud. With α = r both are 1, which "
            "is why nobody noticed. Follow `scale` through each of the two terms and count.",
        ),
        Mistake(
            "twice on both",
            _adapted(lambda now, start, alpha, r: (alpha / r) ** 2 * (now - start)),
            "Now both terms agree, and both are scaled twice. The start is exact again, but everything "
            "learned is α/r times too loud.",
        ),
        Mistake(
            "r forgotten",
            _adapted(lambda now, start, alpha, r: alpha * (now - start)),
            "Scaled once, but by α alone: r times too loud. The division by r is part of the scale.",
        ),
        Mistake(
            "scale lost",
            _adapted(lambda now, start, alpha, r: now - start),
            "Both scales are gone. With α = r that changes nothing, and with any other α the knob is dead.",
        ),
        Mistake(
            "start lost",
            _adapted(lambda now, start, alpha, r: alpha / r * now),
            "The first term is right, but the start B0 A0 has disappeared. A spectral start without its "
            "residual counts part of W0 twice.",
        ),
        Mistake(
            "start unscaled",
            _adapted(lambda now, start, alpha, r: alpha / r * now - start),
            "The trained product is right now. The start lost its scale: what is subtracted must be as loud "
            "as what was added.",
        ),
        Mistake(
            "start added",
            _adapted(lambda now, start, alpha, r: alpha / r * (now + start)),
            "The scale is right. The start is added where it should be subtracted: at step 0 the two must "
            "cancel.",
        ),
        Mistake(
            "W0 lost",
            lambda x, W0, A, B, A0, B0, alpha, r: alpha / r * (x @ A.T @ B.T - x @ A0.T @ B0.T),
            "That is ΔW x alone. The frozen layer still speaks: add W0 x.",
        ),
    ],
    praise="A test with α = r cannot see a scale. Test with α ≠ r, as you test with d_in ≠ d_out.",
)

EXERCISES = [DEAD, GRADIENTS, ALPHA, PISSA, BUG]
