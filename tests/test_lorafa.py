"""LoRA-FA: A never moves, x is not kept for the backward pass; as in the paper, and preconditioned as in PEFT."""

import numpy as np
import peft.optimizers
import pytest
import torch
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from parity import assert_alike, distances, off_by_one_percent
from torch import nn

import lowrank_edu as lo
from lowrank_edu.layers import AdaptedLayer
from lowrank_edu.updates import LowRank

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")
MODELS = ["gpt2", "llama"]


def adapted(name="gpt2", **settings):
    """A LoRA-FA adapter whose B has moved."""
    model = tiny(name)
    lo.adapt(model, lo.LoRAFA(**{"r": 3, "alpha": 7, "target_modules": TARGETS[name], **settings}))
    return shaken(model)


def beside_peft(name, folder, **settings):
    """(ours, PEFT's): one start with B ≠ 0, A frozen in both."""
    ours = adapted(name, **settings)
    lo.save_adapter(ours, folder)
    theirs = peft.PeftModel.from_pretrained(tiny(name), folder, is_trainable=True).eval()
    for key, p in theirs.named_parameters():
        p.requires_grad_("lora_B" in key)
    return ours, theirs


def pairs(ours, theirs):
    """[(our B, PEFT's)] of all layers."""
    return [
        (layer.updates["default"].B, theirs.get_submodule(f"base_model.model.{path}").lora_B["default"].weight)
        for path, layer in lo.adapted_layers(ours).items()
    ]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_five_steps_are_those_of_peft(name, tmp_path):
    assert_alike(*beside_peft(name, tmp_path), pairs)


def attached(model, parameters):
    """Our optimizer, with the schedule of LoRA-FA; Adam's ε is out of the way, as the two put it in other places."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, eps=1e-30)
    model.__dict__["attachment"] = lo.attach(model, optimizer)
    return optimizer


def of_peft(model, parameters):
    optimizer = peft.optimizers.create_lorafa_optimizer(model, r=3, lora_alpha=7, lr=1e-3)
    optimizer.param_groups[0]["eps"] = 1e-30
    for key, p in model.named_parameters():  # PEFT reads the frozen A from the same list
        assert p.requires_grad == ("lora_B" in key)
    return optimizer


@pytest.mark.parametrize("name", MODELS)
def test_preconditioned_steps_are_those_of_pefts_optimizer(name, tmp_path, monkeypatch):
    """PEFT makes this product in bfloat16 where it can; kept in float32 it is ours. A plain step is far away."""
    monkeypatch.setattr("peft.optimizers.lorafa.is_bf16_available", lambda: False)
    how = {"make_optimizer": attached, "other_optimizer": of_peft}
    ours, theirs = beside_peft(name, tmp_path / "a", precondition=True, rank_pattern={TARGETS[name][0]: 2})
    assert_alike(ours, theirs, pairs, **how)
    ours, theirs = beside_peft(name, tmp_path / "b")
    assert distances(ours, theirs, pairs, other_optimizer=of_peft)[2] > 1e-3


def test_the_preconditioned_step_is_the_best_within_the_rows_of_A():
    """float64 numpy: scale · g A is G projected on the rows of A, the closest step to that of full fine-tuning."""
    layer = AdaptedLayer(nn.Linear(7, 5, bias=False)).double()
    update = LowRank(torch.randn(3, 7), torch.randn(5, 3), 0.6, fixed=("A",)).double()
    layer.updates["default"] = update
    model = nn.Sequential(layer)
    model.__dict__["lowrank_methods"] = {"default": lo.LoRAFA(target_modules=["0"], precondition=True)}
    lo.set_adapter(model, "default")
    layer.base.weight.requires_grad_(True)
    x, weights = torch.randn(11, 7).double(), torch.randn(11, 5).double()
    (model(x) * weights).sum().backward()
    G, A = layer.base.weight.grad.numpy(), update.A.detach().numpy()
    optimizer = torch.optim.SGD([update.B], lr=1.0)
    lo.attach(model, optimizer)
    before = update.B.detach().clone()
    optimizer.step()
    moved = 0.6 * (before - update.B.detach()).numpy() @ A
    best = np.linalg.lstsq(A.T, G.T, rcond=None)[0].T @ A
    np.testing.assert_allclose(moved, best, rtol=1e-5, atol=1e-7)
    assert np.linalg.norm(best - G) < np.linalg.norm(G)


def test_blocks_are_preconditioned_one_by_one():
    model = tiny()
    lo.adapt(model, lo.LoRAFA(r=3, alpha=7, blocks={"c_attn": ("q", "v")}, precondition=True))
    shaken(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    lo.attach(model, optimizer)
    model(input_ids=batch(), labels=batch()).loss.backward()
    update = next(iter(lo.adapted_layers(model).values())).updates["default"]
    g = update.B.grad.clone()
    optimizer.step()
    for i in range(2):
        A = update.A[3 * i : 3 * i + 3].detach().double()
        wanted = g[i].double() @ torch.linalg.inv(A @ A.T) / (7 / 3) ** 2
        torch.testing.assert_close(update.B.grad[i].double(), wanted, rtol=1e-4, atol=1e-6)


def test_preconditioning_that_never_runs_is_an_error(tmp_path):
    model = adapted(precondition=True).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model(input_ids=batch(), labels=batch()).loss.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"without the schedule of LoRAFA.*lo\.attach"):
        lo.save_adapter(model, tmp_path)
    plain = adapted().train()  # and the plain one needs none
    optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-3)
    plain(input_ids=batch(), labels=batch()).loss.backward()
    optimizer.step()
    lo.save_adapter(plain, tmp_path)


def saved_for_backward(layer, x):
    """Shapes of the tensors that one forward pass keeps for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tuple(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    y.sum().backward()
    return sorted(kept.values())


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_keeps_Ax_and_not_x(first):
    """12 inputs and 3 ranks per token: LoRA keeps x and A x, LoRA-FA A x alone, also behind other layers."""
    kept = {}
    for method in (lo.LoRA, lo.LoRAFA):
        model = nn.Sequential(nn.Linear(12, 20))
        lo.adapt(model, method(r=3, alpha=7, target_modules=["0"]))
        shaken(model)
        kept[method.__name__] = saved_for_backward(model[0], torch.randn(2, 5, 12, requires_grad=not first))
    flat = {name: sorted(int(np.prod(shape[:-1])) * shape[-1] for shape in shapes) for name, shapes in kept.items()}
    assert flat == {"LoRA": [10 * 3, 10 * 12], "LoRAFA": [10 * 3]}, kept


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "pissa"])
def test_A_does_not_move_by_one_bit(init):
    model = adapted(init=init)
    before = {p: layer.updates["default"].A.clone() for p, layer in lo.adapted_layers(model).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=batch(), labels=batch()).loss.backward()
        optimizer.step()
    lo.set_adapter(model, [])
    lo.set_adapter(model, "default")  # waking up does not thaw it
    for path, layer in lo.adapted_layers(model).items():
        update = layer.updates["default"]
        assert torch.equal(update.A, before[path]) and not update.A.requires_grad and update.B.requires_grad
    assert gap(logits(model), logits(adapted(init=init))) > 0.01


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_residual_start_doubles_nothing(init, tmp_path):
    """A is the same at start and end, so the plain LoRA that it equals has rank r, not 2r."""
    model = adapted(init=init)
    fresh = tiny()
    lo.adapt(fresh, lo.LoRAFA(r=3, alpha=7, target_modules=TARGETS["gpt2"], init=init))
    assert torch.equal(logits(fresh), logits(tiny())) or gap(logits(fresh), logits(tiny())) < 1e-5
    lo.save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny(), tmp_path).eval()
    wanted = logits(theirs)
    assert theirs.peft_config["default"].r == 3
    assert (logits(model) - wanted).norm() <= 1e-5 * wanted.norm()
    assert (logits(off_by_one_percent(model)) - wanted).norm() > 1e-4 * wanted.norm()


def test_only_B_counts():
    ours, lora = tiny(), tiny()
    fa = lo.adapt(ours, lo.LoRAFA(r=3, target_modules=["c_attn"]), seed=4)
    full = lo.adapt(lora, lo.LoRA(r=3, target_modules=["c_attn"]), seed=4)
    assert fa.trainable == 2 * 72 * 3 and full.trainable == 2 * 3 * (72 + 24)
    assert all(torch.equal(mine.updates["default"].A, other.updates["default"].A) for mine, other in zip(
        lo.adapted_layers(ours).values(), lo.adapted_layers(lora).values(), strict=True))  # fmt: skip


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="lr_ratio=16 compares the rates of A and B"):
        lo.LoRAFA(target_modules=["c_attn"], lr_ratio=16)
    model = tiny()
    with pytest.raises(ValueError, match=r"LoRAFA is for linear layers; transformer\.wte is an embedding"):
        lo.adapt(model, lo.LoRAFA(target_modules=["wte"]))
    assert same_state(model, state(tiny())) and not lo.adapter_names(model)
