"""PEFT's names and configuration for VeRA: adapter to tensors and back.   huggingface/peft 0.21

Keys are `base_model.model.<path>.vera_lambda_b` (d_out) and `.vera_lambda_d` (r), and with `save_projection`
`base_model.vera_A` (r, largest d_in) and `base_model.vera_B` (largest d_out, r) once for all layers.
"""

from .methods import VeRA
from .peft_format import PREFIX, adapted_paths, common_settings

PAIR = {"A": "base_model.vera_A", "B": "base_model.vera_B"}


def to_peft(model, method, layers, name):
    """(tensors, config) of adapter `name` on `layers` {path: AdaptedLayer}, as PEFT writes them."""
    updates = {path: layer.updates[name] for path, layer in layers.items()}
    config = common_settings(model, method, {path: layer.base for path, layer in layers.items()}) | {
        "bias": "none",
        "d_initial": method.d_initial,
        "init_weights": True,
        "modules_to_save": None,
        "peft_type": "VERA",
        "projection_prng_key": method.projection_seed,
        "r": method.r,
        "save_projection": method.save_projection,
        "vera_dropout": method.dropout,
    }
    return _named(updates, method.save_projection), dict(sorted(config.items()))


def from_peft(model, config, tensors, path):
    """(method, updates, slots, finish) for a folder's config; the model is only read.

    `slots` {key: tensor} says where the tensors go; there is nothing left to finish.
    """
    missing = [key for key in ("r", "target_modules") if config.get(key) is None]
    if missing:
        raise ValueError(f"{path}/adapter_config.json has no {', '.join(missing)}; PEFT always writes them.")
    used = [key for key in ("modules_to_save", "bias") if config.get(key) not in (None, "none", [])]
    if used:
        raise ValueError(f"{path} uses {', '.join(used)} with VeRA, which this package does not. Use PEFT for it.")
    method = VeRA(
        r=config["r"],
        target_modules=sorted(adapted_paths(model, config, tensors, ".vera_lambda_", path)),
        d_initial=config.get("d_initial", 0.1),
        projection_seed=config.get("projection_prng_key", 0),
        save_projection=config.get("save_projection", True),
        dropout=config.get("vera_dropout", 0.0),
    )
    updates, with_pair = method.build(model), method.save_projection or any(key in tensors for key in PAIR.values())
    shared = next(iter(updates.values())).shared
    for axis, (own, key) in enumerate(PAIR.items()):
        # PEFT lets a second adapter read the pair of the first, which may be larger than its own layers need
        pair, found = getattr(shared, own), tensors.get(key)
        if found is not None and found.dim() == 2 and found.shape[axis] == method.r and found.numel() > pair.numel():
            setattr(shared, own, pair.new_empty(found.shape))
    return method, updates, _named(updates, with_pair), lambda: None


def _named(updates, with_pair):
    """{PEFT's key: tensor} of {path: update}."""
    tensors = {f"{PREFIX}{path}.vera_lambda_b": update.gain for path, update in updates.items()}
    tensors |= {f"{PREFIX}{path}.vera_lambda_d": update.core for path, update in updates.items()}
    shared = next(iter(updates.values())).shared
    return tensors | ({key: getattr(shared, own) for own, key in PAIR.items()} if with_pair else {})
