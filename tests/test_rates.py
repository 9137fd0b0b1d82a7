"""LoRA+: the rates reach the right parameters, five steps are PEFT's, and an optimizer without them is refused."""

import peft.optimizers
import pytest
import torch
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from parity import WEIGHTS

import lowrank_edu as lo
from lowrank_edu.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")
DATA = [{"input_ids": row, "labels": row.clone()} for row in batch(8, 6)]


def adapted(name="gpt2", **settings):
    model = tiny(name)
    lo.adapt(model, lo.LoRA(**{"r": 3, "alpha": 7, "target_modules": TARGETS[name], "lr_ratio": 16, **settings}))
    return shaken(model)


def rates_of(model, groups):
    """{last parts of a parameter's name: (lr, weight decay)}; a parameter is in one group."""
    names = {id(p): n for n, p in model.named_parameters()}
    found = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in groups for p in g["params"]]
    assert len(found) == len(dict(found)) and len(found) == sum(p.requires_grad for p in model.parameters())
    return {name: rate for name, rate in found if ".h.0." in name or ".h." not in name}


def test_rates_and_decay_reach_the_right_parameters():
    whole = ["ln_f", "h.0.mlp.c_proj"]
    model = adapted(target_modules=["wte", "c_attn"], bias="all", use_dora=True, modules_to_save=whole)
    found = rates_of(model, lo.parameter_groups(model, 1e-3, 0.1))
    attn, fast = "transformer.h.0.attn.c_attn.updates.default.", pytest.approx(16e-3)
    assert found[attn + "A"] == (1e-3, 0.1) and found[attn + "B"] == (fast, 0.1)
    assert found[attn + "m"] == (fast, 0.1) and found[attn + "bias"] == (fast, 0.0)
    assert found["transformer.h.0.mlp.c_fc.updates.default.bias"] == (fast, 0.0)
    for factor in "AB":
        assert found[f"transformer.wte.updates.default.{factor}"] == (1e-6, 0.1)
    norm, whole = "transformer.ln_f.updates.default.copy.", "transformer.h.0.mlp.c_proj.updates.default.copy."
    assert found[norm + "weight"] == found[norm + "bias"] == found[whole + "bias"] == (fast, 0.0)
    assert found[whole + "weight"] == (1e-3, 0.1)
    slow = rates_of(model, lo.parameter_groups(model, 1e-3, lr_embedding=5e-3))
    assert slow["transformer.wte.updates.default.A"] == (5e-3, 0.0)


def test_without_a_ratio_all_have_one_rate():
    for method in (lo.LoRA(r=3, target_modules=["c_attn", "wte"], bias="all"), lo.FullFineTuning()):
        model = tiny()
        lo.adapt(model, method)
        (group,) = lo.parameter_groups(model, 1e-3, 0.1)
        assert (group["lr"], group["weight_decay"]) == (1e-3, 0.1)
        assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]


def names_of_peft(ours, theirs):
    """{PEFT's parameter: ours} through their names."""
    pairs, mine = [], dict(ours.named_parameters())
    for key, p in theirs.named_parameters():
        if p.requires_grad:
            path, _, kind = key.removeprefix("base_model.model.").rpartition(".lora_")
            own = {"A": "A", "B": "B", "embedding_A": "A", "embedding_B": "B", "magnitude_vector": "m"}
            pairs.append((mine[f"{path}.updates.default.{own[kind.split('.')[0]]}"], p))
    return pairs


CASES = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "embedding, decay": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "dora, rslora": ("gpt2", {"use_dora": True, "use_rslora": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_five_steps_are_those_of_pefts_optimizer(case, tmp_path):
    name, settings = CASES[case]
    ours, decay = adapted(name, **settings), 0.1 if "decay" in case else 0.0
    lo.save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny(name), tmp_path, is_trainable=True).eval()
    plain = adapted(name, **settings, lr_ratio=None)  # the same start, trained at one rate
    groups = lo.parameter_groups(ours, 1e-3, decay, lr_embedding=3e-4)
    optimizers = {
        ours: torch.optim.AdamW(groups),
        theirs: peft.optimizers.create_loraplus_optimizer(
            theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=decay,
            loraplus_lr_embedding=3e-4),
        plain: torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-3, weight_decay=decay),
    }  # fmt: skip
    lo.attach(ours, optimizers[ours])
    for model, optimizer in optimizers.items():
        for step in range(5):
            optimizer.zero_grad()
            ids = batch(4, 6 + step)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    for model, fits in ((ours, True), (plain, False)):
        far = [float((p - q).detach().abs().max()) for p, q in names_of_peft(model, theirs)]
        assert (max(far) <= WEIGHTS) == fits, far


def test_an_optimizer_with_other_rates_is_refused():
    model = adapted()
    before = state(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for optimizer in (torch.optim.AdamW(trained, lr=1e-3), torch.optim.AdamW(
            [{**g, "lr": g["lr"] ** 0.5} for g in lo.parameter_groups(model, 1e-3)])):  # fmt: skip
        with pytest.raises(ValueError, match=r"lr_ratio=16, but at transformer.*parameter_groups\(model, lr\)"):
            lo.attach(model, optimizer)
    assert same_state(model, before)
    lo.attach(model, torch.optim.SGD(lo.parameter_groups(model, 1e-3)))


def test_a_plain_loop_with_one_rate_is_told():
    model = adapted().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with pytest.raises(RuntimeError, match=r"without the schedule of LoRA.*lo\.attach"):
        for _ in range(2):
            model(input_ids=batch(), labels=batch()).loss.backward()
            optimizer.step()


def test_lo_train_uses_the_rates(monkeypatch):
    """Also with a schedule of the rate: both rates fall, their ratio stays."""
    made, AdamW = [], torch.optim.AdamW

    class Watched(AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

        def step(self, *args):
            self.seen = [*getattr(self, "seen", []), [g["lr"] for g in self.param_groups]]
            return super().step(*args)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    one, other = adapted(), adapted(lr_ratio=None)
    for model in (one, other):
        lo.train(model, DATA, steps=2, batch_size=4, lr=1e-3, schedule="linear", progress=False)
    assert made[0].seen == [pytest.approx([1e-3, 16e-3]), pytest.approx([5e-4, 8e-3])]
    assert made[1].seen == [pytest.approx([1e-3]), pytest.approx([5e-4])]
    assert gap(logits(one), logits(other)) > 1e-3


def test_two_adapters_have_their_own_ratio():
    model = adapted(target_modules=["c_attn"])
    lo.adapt(model, lo.LoRA(r=2, target_modules=["c_attn", "c_fc"]), "plain")
    lo.set_adapter(model, ["default", "plain"])
    found = rates_of(model, lo.parameter_groups(model, 1e-3))
    place = "transformer.h.0.attn.c_attn.updates."
    assert found[place + "default.B"][0] == pytest.approx(16e-3) and found[place + "plain.B"][0] == 1e-3


@pytest.mark.parametrize("ratio", [0, -1, float("inf"), float("nan"), "16"])
def test_bad_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="lr_ratio"):
        lo.LoRA(target_modules=["c_attn"], lr_ratio=ratio)


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan")])
def test_bad_rates_are_refused(lr):
    with pytest.raises(ValueError, match="lr="):
        lo.parameter_groups(adapted(), lr)


def test_a_method_has_a_ratio_only_where_there_are_an_A_and_a_B_to_compare():
    assert {name for name, row in METHODS.items() if "lr_ratio" in row.__dataclass_fields__} == {"LoRA", "LoRAFA"}
