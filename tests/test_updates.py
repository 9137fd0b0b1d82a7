"""Each update against a float64 numpy oracle on Linear, Conv1D and Embedding, and its gradients against differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from lowrank_edu.updates import BlockLowRank, DoRA, LowRank, Projected, Whole, store_like, weight_of

KINDS = ["linear", "conv1d", "embedding"]
SCALE = 7 / 3


def layer(kind, d_in=5, d_out=8, seed=0):
    """A frozen float64 layer and an input for it; no weight is square."""
    torch.manual_seed(seed)
    if kind == "linear":
        base, x = nn.Linear(d_in, d_out), torch.randn(2, 3, d_in)
    elif kind == "conv1d":
        base, x = Conv1D(d_out, d_in), torch.randn(2, 3, d_in)
        nn.init.normal_(base.bias)
    else:
        base, x = nn.Embedding(d_in, d_out), torch.randint(d_in, (2, 3))
    base = base.double().requires_grad_(False)
    return base, x.double() if x.is_floating_point() else x


def factors(base, r=3, seed=1):
    torch.manual_seed(seed)
    d_out, d_in = weight_of(base).shape
    return torch.randn(r, d_in, dtype=torch.float64), torch.randn(d_out, r, dtype=torch.float64)


def make(shape, base):
    """An update of every shape in this module, away from its start."""
    A, B = factors(base)
    d_out, d_in = weight_of(base).shape
    if shape == "blocks":
        B = torch.randn(2, d_out // 4, 3, dtype=torch.float64)
        rows = torch.tensor([*range(d_out // 4), *range(d_out - d_out // 4, d_out)])
        return BlockLowRank(torch.randn(6, d_in, dtype=torch.float64), B, SCALE, rows, d_out)
    if shape == "projected":
        theta = nn.Parameter(torch.randn(7, dtype=torch.float64))
        return Projected(theta, base, 0.5, torch.Generator().manual_seed(4), seed=4)
    kind, residual = {"low rank": (LowRank, False), "residual": (LowRank, True),
                      "dora": (DoRA, False), "dora, residual": (DoRA, True)}[shape]  # fmt: skip
    update = kind(A, B, SCALE, base, residual=residual) if kind is DoRA else kind(A, B, SCALE, residual=residual)
    with torch.no_grad():
        for p in update.parameters():
            p += torch.randn_like(p) * 0.3
    return update


def plain(tensor):
    return tensor.detach().double().numpy()


def oracle(shape, update, base):
    """ΔW (d_out, d_in) by numpy alone."""
    W0 = plain(base.weight) if isinstance(base, nn.Linear) else plain(base.weight).T
    if shape == "projected":
        P = np.zeros((W0.size, update.theta.numel()))  # dense: one row per weight, one column per entry of θ
        P[np.arange(W0.size), update.entry.numpy().ravel()] = update.sign.numpy().ravel() * 0.5
        return (P @ plain(update.theta)).reshape(W0.shape)
    A, B = plain(update.A), plain(update.B)
    if shape == "blocks":
        dW, n = np.zeros_like(W0), W0.shape[0] // 4
        dW[:n], dW[-n:] = SCALE * B[0] @ A[:3], SCALE * B[1] @ A[3:]
        return dW
    dW = SCALE * B @ A
    if "residual" in shape:
        dW -= SCALE * plain(update.B0) @ plain(update.A0)
    if "dora" in shape:
        V = W0 + dW
        dW = plain(update.m)[:, None] * V / np.sqrt((V**2).sum(1, keepdims=True)) - W0
    return dW


SHAPES = ["low rank", "residual", "blocks", "dora", "dora, residual", "projected"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_delta_are_the_matrix_product(shape, kind):
    base, x = layer(kind)
    update = make(shape, base)
    y = base(x)
    dW = oracle(shape, update, base)
    inputs = np.eye(dW.shape[1])[x.numpy()] if kind == "embedding" else x.numpy()
    np.testing.assert_allclose(plain(update(x, y, base)), inputs @ dW.T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(plain(update.delta(base)), dW, rtol=0, atol=1e-11)
    assert update.delta(base).dtype == torch.float64 and not update.delta(base).requires_grad
    update.train_bias(torch.ones(dW.shape[0], dtype=torch.float64))
    nn.init.normal_(update.bias)
    np.testing.assert_allclose(plain(update(x, y, base)), inputs @ dW.T + plain(update.bias), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_finite_differences(shape, kind, monkeypatch):
    base, x = layer(kind)
    update = make(shape, base)
    y = base(x)
    if "dora" in shape:  # the norm counts as a constant in the backward pass (Liu et al., §4.3)
        norm = update.row_norm(base)
        monkeypatch.setattr(update, "row_norm", lambda _: norm)
    parameters = dict(update.named_parameters())

    def run(*values):
        return torch.func.functional_call(update, dict(zip(parameters, values, strict=True)), (x, y, base))

    inputs = tuple(p.detach().clone().requires_grad_(True) for p in parameters.values())
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_reach_the_input(shape, kind, monkeypatch):
    base, x = layer(kind)
    update = make(shape, base)
    if "dora" in shape:
        norm = update.row_norm(base)
        monkeypatch.setattr(update, "row_norm", lambda _: norm)
    assert torch.autograd.gradcheck(lambda x: base(x) + update(x, base(x), base), (x.requires_grad_(True),))


def test_the_norm_of_dora_has_no_gradient():
    """Against the gradient of the full expression, which is different."""
    base, x = layer("linear")
    update = make("dora", base)
    update(x, base(x), base).square().sum().backward()
    A, B, m = (p.detach().clone().requires_grad_(True) for p in (update.A, update.B, update.m))
    for detached in (True, False):
        A.grad = None
        V = base.weight + SCALE * B @ A
        norm = V.norm(dim=1).detach() if detached else V.norm(dim=1)
        ((x @ ((m / norm)[:, None] * V - base.weight).T).square().sum()).backward()
        assert torch.allclose(A.grad, update.A.grad, rtol=1e-9) == detached


@given(d_in=st.integers(1, 9), d_out=st.integers(1, 9), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_columns_of_the_projection_are_orthogonal(d_in, d_out, d, seed):
    """One entry of θ per weight: PᵀP is diagonal and holds spread² · (weights per entry)."""
    base = nn.Linear(d_in, d_out + d_in, dtype=torch.float64)
    theta = nn.Parameter(torch.zeros(d, dtype=torch.float64))
    update = Projected(theta, base, 0.25, torch.Generator().manual_seed(seed), seed)
    P = torch.stack([_column(update, theta, j) for j in range(d)], dim=1)
    gram = P.T @ P
    assert torch.equal(gram, torch.diag(torch.diag(gram)))
    counts = torch.bincount(update.entry.flatten().long(), minlength=d)
    assert torch.allclose(torch.diag(gram), 0.0625 * counts.double())


@torch.no_grad()
def _column(update, theta, j):
    theta.zero_()
    theta[j] = 1
    return update.matrix().flatten()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.booleans())
@settings(max_examples=25)
def test_as_lora_is_the_same_product(d_in, d_out, r, residual):
    generator = torch.Generator().manual_seed(d_in * 7 + d_out)
    update = LowRank(torch.randn(r, d_in + d_out, generator=generator), torch.randn(d_out, r, generator=generator),
                     SCALE, residual=residual)  # fmt: skip
    with torch.no_grad():
        update.A += 1
    A, B = update.as_lora()
    assert A.shape[0] == B.shape[1] == (2 * r if residual else r)
    assert torch.allclose(SCALE * B @ A, update.product(), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_factors_are_multiplied_in_float32(dtype):
    base, _ = layer("linear", d_in=40)
    base = base.to(dtype)
    update = LowRank(*(m.to(dtype) for m in factors(base, r=30)), SCALE)
    dW = update.delta(base)
    assert dW.dtype == torch.float32
    exact = SCALE * plain(update.B) @ plain(update.A)
    assert np.abs(plain(dW) - exact).max() <= 1e-5 * np.abs(exact).max()


def test_dropout_acts_on_the_input_of_the_adapter_only():
    base, x = layer("linear")
    A, B = factors(base)
    update = LowRank(A, B, SCALE, dropout=0.5).train()
    torch.manual_seed(0)
    out = update(x, base(x), base)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    assert torch.allclose(out, SCALE * dropped @ A.T @ B.T)
    assert torch.allclose(update.eval()(x, base(x), base), SCALE * x @ A.T @ B.T)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_seen_in_one_orientation(kind):
    base, _ = layer(kind)
    assert weight_of(base).shape == (8, 5)
    assert weight_of(base).data_ptr() == base.weight.data_ptr()
    assert torch.equal(store_like(base, weight_of(base)), base.weight)


def test_whole_is_the_difference_of_two_layers():
    base, _ = layer("conv1d")
    other, _ = layer("conv1d", seed=9)
    update = Whole(other)
    assert torch.equal(update.delta(base), (other.weight - base.weight).T)
    assert all(p.requires_grad for p in update.parameters())
