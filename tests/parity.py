"""What parity with PEFT means: the same outputs, gradients and trained weights, tensor by tensor."""

import copy

import torch
from models_zoo import batch, logits

import lowrank_edu as lo
from lowrank_edu.updates import LowRank

OUTPUTS, GRADIENTS, WEIGHTS = 1e-5, 1e-4, 2e-5
"""‖Δ outputs‖ / ‖outputs‖; ‖Δg‖ / ‖g‖ of every tensor; the largest |Δ weight| after five steps."""


def off_by_one_percent(model):
    """A copy whose adapters are 1 % too loud."""
    wrong = copy.deepcopy(model)
    for layer in lo.adapted_layers(wrong).values():
        for update in layer.updates.values():
            if isinstance(update, LowRank):
                update.scale *= 1.01
    return wrong


def distances(ours, theirs, pairs, make_optimizer=None, other_optimizer=None, lr=1e-3, steps=5):
    """(outputs, gradients, weights): how far our model is from PEFT's, on the same batches.

    pairs(ours, theirs)   [(our parameter, theirs)] of all that is trained
    make_optimizer        (model, parameters) -> optimizer of ours; AdamW without weight decay unless given
    """
    wanted = logits(theirs)
    outputs = float((logits(ours) - wanted).norm() / wanted.norm())
    plain = lambda model, parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)  # noqa: E731
    both = pairs(ours, theirs)
    assert all(len(half) == sum(p.requires_grad for p in model.parameters())
               for half, model in zip(zip(*both, strict=True), (ours, theirs), strict=True))  # fmt: skip
    first = []
    for side, (model, make) in enumerate([(ours, make_optimizer or plain), (theirs, other_optimizer or plain)]):
        parameters = [pair[side] for pair in both]
        optimizer = make(model, parameters)
        for step in range(steps):
            optimizer.zero_grad()
            ids = batch(4, 6 + step)
            model(input_ids=ids, labels=ids).loss.backward()
            if step == 0:
                first.append([p.grad.clone() for p in parameters])
            optimizer.step()
    gradients = max(float((g - h).norm() / h.norm()) for g, h in zip(*first, strict=True))
    weights = max(float((p - q).detach().abs().max()) for p, q in both)
    return outputs, gradients, weights


def assert_alike(ours, theirs, pairs, **how):
    """Within the three bounds; and a scale that is 1 % off is beyond each of them."""
    right, wrong = (
        distances(model, other, pairs, **how)
        for model, other in ((ours, theirs), (off_by_one_percent(ours), copy.deepcopy(theirs)))
    )
    print("outputs, gradients, weights:", right, "with a scale 1 % off:", wrong)
    for value, far, bound in zip(right, wrong, (OUTPUTS, GRADIENTS, WEIGHTS), strict=True):
        assert value <= bound < far
