"""The table of methods: every yes works, every no raises and names what to do instead. A new method needs a row."""

import copy
import inspect
import re

import numpy as np
import peft
import pytest
import torch
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from parity import OUTPUTS, off_by_one_percent
from safetensors.torch import load_file, save_file

import lowrank_edu as lo
from lowrank_edu.methods import METHODS, table
from lowrank_edu.methods.table import STATED
from lowrank_edu.updates import LowRank

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning", "ignore:.*share one weight")
]
ROWS = {row.name: row for row in table()}
MODELS = ["gpt2", "llama"]
LOW_RANK = {"r": 3, "alpha": 7}
EXAMPLES = {  # row: settings for a tiny model; target_modules are added where the method has them
    "LoRA": LOW_RANK,
    "rsLoRA": LOW_RANK,
    "LoRA+": LOW_RANK,
    "DoRA": LOW_RANK,
    "PiSSA": LOW_RANK,
    "OLoRA": LOW_RANK,
    "LoftQ": LOW_RANK,
    "LoRA-FA": LOW_RANK,
    "VeRA": {"r": 5},
    "AFLoRA": {"r": 3},
    "AdaLoRA": {"init_r": 4, "target_r": 2, "alpha": 7, "total_steps": 10},
    "LoRA-XS": LOW_RANK,
    "LaMDA": {"r": 3},
    "LaMDA++": {"r": 3},
    "intrinsic dimension": {"d": 30},
    "full fine-tuning": {},
    "LISA": {"active_blocks": 1},
    "BitFit": {"add_missing": True},  # Llama has no biases
    "Houlsby adapter": {"bottleneck": 5},
    "Pfeiffer adapter": {"bottleneck": 5},
    "prefix tuning": {"length": 4},
    "prompt tuning": {"length": 4},
}
CODES = {"LoftQ": "nf4"}  # rows that come together with a quantised base


def method_of(name, model):
    """The row's method with settings for this tiny model."""
    kind, settings = STATED[name][0], dict(STATED[name][1])
    if settings.pop("target_modules", None) is not None:
        settings["target_modules"] = TARGETS["gpt2" if hasattr(model, "transformer") else "llama"]
    method = kind(**settings | EXAMPLES[name])
    return method.allocated(model, [1, 2, 4]) if name == "LaMDA++" else method


def adapted(name, kind, adapters=("a",)):
    """A tiny model with trained-looking adapters of this row; the last is active."""
    model = tiny(kind)
    method = method_of(name, model)
    for i, adapter in enumerate(adapters):
        lo.adapt(model, method, adapter, seed=i, quantize=CODES.get(name) if i == 0 else None)
        shaken(model, seed=i)
    return model


def base_of(name, kind):
    """The model without adapters: the tiny one, or what quantising left of it."""
    return lo.unwrap(adapted(name, kind)) if name in CODES else tiny(kind)


def rows_that(what, can):
    """pytest parameters (row name, kind of model) of the rows whose answer is yes (True) or no (False)."""
    names = [name for name, row in ROWS.items() if (getattr(row, what) is True) == can]
    return pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in names for kind in MODELS])


every = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in ROWS for kind in MODELS])


def test_every_method_has_a_row_and_every_row_an_example():
    assert {type(row.method) for row in ROWS.values()} == set(METHODS.values()), "a method without a row in STATED"
    assert EXAMPLES.keys() == ROWS.keys(), "a row without an example, or an example without a row"
    for row in ROWS.values():
        assert eval(row.call, dict(METHODS)) == row.method  # the call as it is printed
        for answer in (row.shape, row.start, row.scale, row.schedule, row.storage):
            assert isinstance(answer, str) and answer and answer == answer.strip()
        assert row.source or row.name == "full fine-tuning"
        assert (row.peft_type is None) == (row.peft is not True)


def test_the_table_as_it_stands():
    """A change of what a method can do is a decision: it is made here, too."""
    can = {name: "".join("✓" if getattr(row, what) is True else "✗" for what in
                         ("merge", "route", "combine", "peft", "own")) for name, row in ROWS.items()}  # fmt: skip
    everything = {"LoRA", "rsLoRA", "LoRA+", "PiSSA", "OLoRA", "LoRA-FA", "VeRA", "AFLoRA", "AdaLoRA", "LoRA-XS",
                  "LaMDA", "LaMDA++"}  # fmt: skip
    assert can == dict.fromkeys(everything, "✓✓✓✓✓") | {
        "DoRA": "✓✓✗✓✓", "LoftQ": "✓✓✓✗✗",
        "intrinsic dimension": "✓✓✗✗✓", "full fine-tuning": "✓✓✗✗✓", "LISA": "✓✓✗✗✓", "BitFit": "✓✓✗✗✓",
        "Houlsby adapter": "✗✓✗✗✓", "Pfeiffer adapter": "✗✓✗✗✓",
        "prefix tuning": "✗✗✗✓✓", "prompt tuning": "✗✗✗✓✓",
    }  # fmt: skip
    types = {name: row.peft_type for name, row in ROWS.items() if row.peft_type not in (None, "LORA")}
    assert types == {"VeRA": "VERA", "AdaLoRA": "ADALORA", "prefix tuning": "PREFIX_TUNING",
                     "prompt tuning": "PROMPT_TUNING"}  # fmt: skip


@every
def test_disabled_is_the_base_bit_for_bit(name, kind):
    model, base = adapted(name, kind), base_of(name, kind)
    assert gap(logits(model), logits(base)) > 1e-3
    with lo.disabled(model):
        assert torch.equal(logits(model), logits(base))


@rows_that("merge", True)
def test_merging_gives_the_same_outputs_and_comes_undone_exactly(name, kind):
    model = adapted(name, kind)
    before, out = state(model), logits(model)
    lo.merge(model, **({"how": "dequantise"} if name in CODES else {}))
    assert gap(logits(model), out) < 1e-5 and gap(logits(model), logits(base_of(name, kind))) > 1e-3
    lo.unmerge(model)
    assert same_state(model, before) and torch.equal(logits(model), out)


@rows_that("route", True)
def test_routed_rows_are_what_each_adapter_gives_alone(name, kind):
    if name in CODES:  # its base was made with the first adapter; a second LoRA joins it
        model = adapted(name, kind)
        lo.adapt(model, lo.LoRA(**LOW_RANK, target_modules=TARGETS[kind]), "b")
        shaken(model, seed=1)
    else:
        model = adapted(name, kind, ("a", "b"))
    ids, rows = batch(5, 7), ["b", None, "a", "b", None]
    alone = {None: logits(base_of(name, kind), ids)}
    for adapter in "ab":
        lo.set_adapter(model, adapter)
        alone[adapter] = logits(model, ids)
    with lo.routed(model, rows):
        out = logits(model, ids)
    for i, adapter in enumerate(rows):
        assert gap(out[i], alone[adapter][i]) <= (0 if adapter is None else 5e-6)
        assert all(gap(out[i], alone[other][i]) > 1e-3 for other in alone if other != adapter)


@rows_that("combine", True)
def test_combining_gives_the_weighted_sum(name, kind):
    model = adapted(name, kind, ("a",) if name in CODES else ("a", "b"))
    lo.adapt(model, lo.LoRA(r=2, alpha=3, target_modules=TARGETS[kind]), "other")
    shaken(model, seed=7)
    weights = {"a": 0.5, "b": -1.25, "other": 2.0}
    weights = {adapter: w for adapter, w in weights.items() if adapter in lo.adapter_names(model)}
    layers = lo.adapted_layers(model)
    wanted = {path: sum(w * layer.delta(n).double().numpy() for n, w in weights.items() if n in layer.updates)
              for path, layer in layers.items()}  # fmt: skip
    lo.combine(model, weights, "mix")
    for path, layer in layers.items():
        found = layer.delta("mix").double().numpy()
        assert np.linalg.norm(found - wanted[path]) <= 1e-5 * np.linalg.norm(wanted[path]), path


@rows_that("peft", True)
def test_peft_loads_it_with_the_same_outputs(name, kind, tmp_path):
    model, row = adapted(name, kind), ROWS[name]
    lo.save_adapter(model, tmp_path, "a", format="peft")
    theirs = peft.PeftModel.from_pretrained(tiny(kind), tmp_path).eval()
    assert theirs.peft_config["default"].peft_type.value == row.peft_type
    wanted = logits(theirs)[:, -7:]  # PEFT also returns what it predicts at the positions of a prompt
    assert (logits(model) - wanted).norm() <= OUTPUTS * wanted.norm()
    assert gap(wanted, logits(tiny(kind))) > 1e-3
    if row.peft_type not in ("PREFIX_TUNING", "PROMPT_TUNING"):
        assert (logits(off_by_one_percent(model)) - wanted).norm() > OUTPUTS * wanted.norm()
    again = tiny(kind)
    lo.load_adapter(again, tmp_path, "b")
    assert (logits(again) - wanted).norm() <= OUTPUTS * wanted.norm()
    if row.native and not any(u.residual for layer in lo.adapted_layers(model).values()
                              for u in layer.updates.values() if isinstance(u, LowRank)):  # fmt: skip
        assert torch.equal(logits(again), logits(model))


@rows_that("own", True)
def test_our_own_format_comes_back_bit_for_bit(name, kind, tmp_path):
    model = adapted(name, kind)
    lo.save_adapter(model, tmp_path, "a", format="own")
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        peft.PeftModel.from_pretrained(tiny(kind), tmp_path)
    again = tiny(kind)
    report = lo.load_adapter(again, tmp_path, "b")
    assert torch.equal(logits(again), logits(model))
    mine, other = model.__dict__["lowrank_methods"]["a"], again.__dict__["lowrank_methods"]["b"]
    assert type(other) is type(mine) and report.trainable == lo.adapting.report(model, "a").trainable
    assert lo.adapting.report(again, "b").modules == lo.adapting.report(model, "a").modules
    with lo.disabled(again):
        assert torch.equal(logits(again), logits(tiny(kind)))


CALLS = {
    "merge": lambda model, folder: lo.merge(model),
    "route": lambda model, folder: lo.routed(model, ["a", None, "a"]).__enter__(),
    "combine": lambda model, folder: lo.combine(model, {"a": 1.0}, "c"),
    "peft": lambda model, folder: lo.save_adapter(model, folder, "a", format="peft"),
    "own": lambda model, folder: lo.save_adapter(model, folder, "a", format="own"),
}
REFUSED = [(name, kind, what) for what in CALLS for name, row in ROWS.items() if getattr(row, what) is not True
           for kind in MODELS]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "what"), REFUSED)
def test_every_no_raises_changes_nothing_and_names_the_way_out(name, kind, what, tmp_path):
    model, reason = adapted(name, kind), getattr(ROWS[name], what)
    before, out = state(model), logits(model)
    with pytest.raises(ValueError) as caught:
        CALLS[what](model, tmp_path)
    assert reason in str(caught.value), "the table and the error say the same"
    assert same_state(model, before) and torch.equal(logits(model), out) and not list(tmp_path.iterdir())
    own = type(ROWS[name].method).__name__
    named = [word for word in re.findall(r"\w+", reason) if word in lo.__all__ and word != own]
    assert any(callable(getattr(lo, word)) for word in named), f"no function or method is named in: {reason}"
    for call, arguments in re.findall(r"\b(merge|routed|save_adapter|unwrap|adapt|set_adapter)\(([^()]*)\)", reason):
        allowed = inspect.signature(getattr(lo, call)).parameters
        assert set(re.findall(r"(\w+)=", arguments)) <= allowed.keys()


def everything_about(model):
    """All that a failure could leave behind: tensors, flags, modules, hooks, names."""
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    return ([(key, id(p), p.requires_grad) for key, p in model.named_parameters()], hooks, set(model.__dict__),
            [(key, id(m), m.training) for key, m in model.named_modules()], lo.adapter_names(model))  # fmt: skip


def assert_fails(act, model):
    """`act` raises ValueError, and the model is what it was."""
    before, values = everything_about(model), state(model)
    with pytest.raises(ValueError):
        act(model)
    assert everything_about(model) == before and same_state(model, values)


@every
def test_building_that_fails_at_the_last_layer_leaves_the_model_as_it_was(name, kind):
    """The last layer cannot be quantised; layers that are trained whole cannot be either."""
    model = tiny(kind).train()
    last = model.transformer.h[1].mlp.c_proj if kind == "gpt2" else model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        last.weight[2, 1] = torch.inf
    assert_fails(lambda m: lo.adapt(m, method_of(name, tiny(kind)), quantize="nf4"), model)
    if ROWS[name].method.scheduled:
        model = adapted(name, kind)
        assert_fails(lambda m: lo.attach(m, torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=1.0), 10), model)


@rows_that("own", True)
def test_a_broken_folder_leaves_the_model_as_it_was(name, kind, tmp_path):
    for format in ("own", "peft")[: 1 + (ROWS[name].peft is True)]:
        folder = tmp_path / format
        lo.save_adapter(adapted(name, kind), folder, "a", format=format)
        file = next(folder.glob("*.safetensors"))
        tensors = load_file(file)
        last = max(tensors)
        for broken in (tensors | {last: torch.ones(2, 3, 5)}, tensors | {"stray": torch.ones(2)}):
            save_file(broken, file)
            assert_fails(lambda model, path=folder: lo.load_adapter(model, path), tiny(kind).train())


@every
def test_a_copy_of_the_model_is_a_model_of_its_own(name, kind):
    model = adapted(name, kind)
    twin = copy.deepcopy(model)
    out = logits(model)
    shaken(twin, seed=9)
    assert torch.equal(logits(model), out) and gap(logits(twin), out) > 1e-3


def test_what_was_combined_on_its_own_codes_stays_with_them(tmp_path):
    model = adapted("LoftQ", "gpt2")
    lo.combine(model, {"a": 0.5}, "mix")
    for adapter in ("a", "mix"):
        with pytest.raises(ValueError, match="started together with its quantised base"):
            lo.save_adapter(model, tmp_path / adapter, adapter)
