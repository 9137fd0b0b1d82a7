"""One block of GPT-2: which layers are frozen, which carry LoRA, what each costs.   chapter 3"""

from .page import Choice, Figure, Select, Slider, key, meter, script, svg, tiles

# name: (what it does, (d_out, d_in) in units of d and of the inner width, y in the picture)
LINEAR = {
    "c_attn": ("makes query, key and value, all three in one layer", ("3d", "d"), 70),
    "c_proj": ("mixes the heads' answers", ("d", "d"), 138),
    "c_fc": ("widens: the first half of the MLP", ("inner", "d"), 240),
    "mlp.c_proj": ("narrows again: the second half of the MLP", ("d", "inner"), 308),
}
OTHER = {
    "wte + wpe": ("token and position embeddings; wte is the output head too", 0),
    "ln_1": ("layer norm: one gain and one shift for each number", 36),
    "ln_2": ("layer norm: one gain and one shift for each number", 206),
}
SILENT = [("attention", 104), ("GELU", 274)]  # steps without weights
LAYERS = ["wte + wpe", "ln_1", "c_attn", "c_proj", "ln_2", "c_fc", "mlp.c_proj"]
TARGETS = {"c_attn": "c_attn", "attention": "c_attn, c_proj", "all": "all-linear", "none": "nothing"}
GPT2 = {
    "GPT-2": {"d": 768, "layers": 12, "vocab": 50257, "context": 1024, "inner": 3072},
    "GPT-2 XL": {"d": 1600, "layers": 48, "vocab": 50257, "context": 1024, "inner": 6400},
}
LEFT, TALL = 196, 146  # where the matrices begin, and how large the longest side is drawn
CAPTION = (
    "Choose a layer, or click on it. Grey is frozen; blue and orange learn. A and B are drawn to the scale "
    "of W0, beside its columns and rows. Which layer's A and B cost most, and why? What happens to the share "
    "that learns when the model grows?"
)


def block_anatomy(config=None, r=8, name="tiny-gpt2", slug="anatomy"):
    """A GPT-2 block to click on: for each layer its shapes and counts, frozen and trainable.

    config: a Hugging Face GPT2Config to show first under `name`; GPT-2 and GPT-2 XL are there to compare.
    r: the rank shown first, one of 1, 2, 4 … 64.
    """
    sizes = ({name: _size(config)} if config is not None else {}) | GPT2
    first = next(iter(sizes))
    return Figure(
        slug=slug,
        title="What learns, and what stays frozen?",
        alt=_alt(first, sizes[first], r),
        caption=CAPTION,
        controls=[
            Select("layer", "Layer", LAYERS, "c_attn"),
            Choice("target", "LoRA sits on", TARGETS),
            Slider("r", "Rank r", [1, 2, 4, 8, 16, 32, 64], start=r),
            Select("model", "Model", list(sizes)),
        ],
        data={
            "sizes": sizes,
            "linear": {k: {"does": does, "shape": shape} for k, (does, shape, _) in LINEAR.items()},
            "other": {k: does for k, (does, _) in OTHER.items()},
            "box": [LEFT, TALL],
        },
        stage=_stage(sizes[first], r),
        under=_facts(sizes[first], r),
        panel=_panel(sizes[first], r),
        draw=script("anatomy.js"),
        css=CSS.replace("ME", f"#fig-{slug}"),
    )


CSS = """ME .box rect{fill:var(--faint);stroke:var(--soft)}
ME .box.on rect:first-child{stroke:currentColor;stroke-width:2}
ME .box .lora{display:none}ME .box.adapted .lora{display:inline}ME .facts{font-size:14px;margin-top:.8rem}
ME .facts b{font-weight:650}ME .facts div{display:flex;justify-content:space-between;gap:.8rem;
padding:.2rem 0;border-top:1px solid var(--soft)}
ME .facts div span:last-child{text-align:right;font-variant-numeric:tabular-nums}"""


def _size(config):
    inner = config.n_inner or 4 * config.n_embd
    names = {"d": "n_embd", "layers": "n_layer", "vocab": "vocab_size", "context": "n_positions"}
    return {k: int(getattr(config, v)) for k, v in names.items()} | {"inner": int(inner)}


def shape_of(layer, size):
    """(d_out, d_in) of one of the four linear layers."""
    sides = {"d": size["d"], "3d": 3 * size["d"], "inner": size["inner"]}
    return tuple(sides[side] for side in LINEAR[layer][1])


def counts(size, targets, r):
    """(trainable, total) numbers of a GPT-2 of this size with LoRA of rank r on these layers of every
    block."""
    d, blocks = size["d"], size["layers"]
    frozen = sum(o * i + o for o, i in (shape_of(layer, size) for layer in LINEAR)) + 4 * d  # two layer norms
    trainable = blocks * sum(r * sum(shape_of(layer, size)) for layer in targets)
    return trainable, (size["vocab"] + size["context"]) * d + blocks * frozen + 2 * d + trainable


def _box(name, y):
    adapted = " adapted on" if name == "c_attn" else ""
    marks = (
        f'<g class="lora"><rect x="139" y="{y + 5}" width="4" height="16" style="fill:var(--b);stroke:none"/>'
        f'<rect x="146" y="{y + 5}" width="14" height="4" style="fill:var(--a);stroke:none"/></g>'
    )
    return (
        f'<g class="box{adapted}" data-el="box-{name}" data-set="layer={name}">'
        f'<rect x="38" y="{y}" width="128" height="26" rx="6"/>'
        f'<text x="48" y="{y + 17}">{name}</text>{marks}</g>'
    )


def _stage(size, r):
    flow = 'fill="none" stroke="currentColor" stroke-opacity=".45" stroke-width="1.5"'
    lines = "M38 13H16V170M16 186V340M16 356V372M16 49H38M102 62V70M102 164V178H24M16 219H38M102 334V348H24"
    plus = "".join(
        f'<circle cx="16" cy="{y}" r="8" {flow}/><path d="M11 {y}h10M16 {y - 5}v10" {flow}/>' for y in (178, 348)
    )
    boxes = "".join(_box(name, spec[-1]) for name, spec in (LINEAR | OTHER).items())
    boxes += "".join(
        f'<text x="102" y="{y + 17}" text-anchor="middle" opacity=".8">{text}</text>' for text, y in SILENT
    )
    matrices = ""
    for (name, place), style in zip(_matrices(*shape_of("c_attn", size), r).items(), STYLES, strict=True):
        where = " ".join(f'{side}="{value:.1f}"' for side, value in place.items())
        matrices += f'<rect data-el="{name}" {where} {style}/>'
    words = f'<text x="36" y="369" data-el="times">{size["layers"]} such blocks</text>'
    words += f'<text x="{LEFT + 4}" y="18" data-el="name">c_attn</text>'
    for name, (x, y) in _labels(*shape_of("c_attn", size), r).items():
        words += f'<text x="{x:.1f}" y="{y:.1f}" data-el="label-{name}">{name}</text>'
    words += f'<text x="{LEFT}" y="300">h = W0 x</text><text x="{LEFT}" y="322" data-el="plus">{PLUS}</text>'
    return svg(350, 376, f'<path d="{lines}" {flow}/>' + plus + boxes + words + matrices)


PLUS = " + α/r · B (A x)"
STYLES = (
    'rx="2" fill="currentColor" fill-opacity=".14" stroke="currentColor" stroke-opacity=".4"',
    'fill="var(--a)"',
    'fill="var(--b)"',
)


def _matrices(d_out, d_in, r):
    """Where W0, A and B are drawn: B beside the rows of W0, A above its columns; anatomy.js does the same."""
    unit = TALL / max(d_out, d_in)
    thick, x, y = max(2, r * unit), LEFT, 44
    return {
        "W0": {"x": x + thick + 4, "y": y + thick + 4, "width": d_in * unit, "height": d_out * unit},
        "A": {"x": x + thick + 4, "y": y, "width": d_in * unit, "height": thick},
        "B": {"x": x, "y": y + thick + 4, "width": thick, "height": d_out * unit},
    }


def _labels(d_out, d_in, r):
    """Where the letters stand: A right of its bar, B under its bar, W0 in the middle of its own rectangle."""
    at = _matrices(d_out, d_in, r)
    W0, A, B = at["W0"], at["A"], at["B"]
    return {
        "W0": (W0["x"] + W0["width"] / 2 - 9, W0["y"] + W0["height"] / 2 + 4),
        "A": (A["x"] + A["width"] / 2 - 4, A["y"] - 5),
        "B": (B["x"] - 13, B["y"] + B["height"] / 2 + 4),
    }


def _facts(size, r):
    d_out, d_in = shape_of("c_attn", size)
    facts = [
        ("W0, frozen", f"{d_out:,} × {d_in:,} = {d_out * d_in:,}"),
        (key("a", "A"), f"{r} × {d_in:,} = {r * d_in:,}"),
        (key("b", "B"), f"{d_out:,} × {r} = {r * d_out:,}"),
        ("stored as", f"{d_in:,} × {d_out:,} (Conv1D)"),
    ]
    rows = "".join(f"<div><span>{a}</span><span>{b}</span></div>" for a, b in facts)
    return (
        f'<div class="facts"><b data-el="does">c_attn {LINEAR["c_attn"][0]}</b>'
        f'<div data-el="facts" style="display:block;border:0;padding:0">{rows}</div></div>'
    )


def _panel(size, r):
    trainable, total = counts(size, ["c_attn"], r)
    label = f"numbers learn, of {total:,}: {100 * trainable / total:.2f} %"
    return tiles(("trainable", f"{trainable:,}", label)) + meter("share", trainable / total)


def _alt(name, size, r):
    trainable, total = counts(size, ["c_attn"], r)
    d_out, d_in = shape_of("c_attn", size)
    return (
        f"One transformer block of {name}: layer norm, c_attn, attention, c_proj, and after the first sum "
        "layer norm, "
        f"c_fc, GELU, c_proj. All of it is frozen. Beside W0 of c_attn, {d_out} by {d_in}, stand a thin A, "
        f"{r} by "
        f"{d_in}, and a thin B, {d_out} by {r}: {trainable:,} of {total:,} numbers learn."
    )
