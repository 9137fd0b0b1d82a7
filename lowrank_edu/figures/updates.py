"""The spectrum of a real update beside W0 and noise, and what a cut to rank r leaves of it.   chapter 2"""

from typing import NamedTuple

import numpy as np

from .. import shipped
from .page import Choice, Figure, Select, Slider, Toggle, key, meter, path, rounded, script, tiles
from .spectra import DECADES, FLOOR, TALL, WIDTH, _energy, _rank_for, _stage

CAPTION = (
    "Bars: singular values of one matrix, the largest set to 1. Line with dots: the share of the improvement "
    "that survives when ΔW of every linear layer is cut to rank r. Move the slider and compare the large "
    "numbers. Then look at W0 and at noise: which falls fastest, and does any of the three reach zero?"
)
KINDS = {"delta": "ΔW", "W0": "W0", "noise": "noise"}


def update_spectra(results=None, r=8, slug="update-spectra"):
    """Singular values of ΔW, W0 and noise of one layer, a rank slider, and the improvement that rank keeps.

    results: what `shipped.results("ch02_updates")` gives (default). The line is measured: the share of the
    improvement of the loss that is left when ΔW of every linear layer is cut to its best copy of rank r.
    """
    results = results or shipped.results("ch02_updates")
    layers = {name: _matrices(layer) for name, layer in results["layers"].items()}
    first = next(iter(layers))
    shown, kept = layers[first]["delta"], [[cut.rank, cut.kept] for cut in cut_table(results)]
    return Figure(
        slug=slug,
        title="How much of an update does rank r keep?",
        alt=_alt(layers, kept),
        caption=CAPTION,
        controls=[
            Select("layer", "Layer", {name: name.removeprefix("transformer.") for name in layers}),
            Choice("matrix", "Matrix", KINDS),
            Slider("r", "Rank r", range(1, len(shown["s"]) + 1), start=r),
            Toggle("log", "Logarithmic scale"),
        ],
        data={"layers": layers, "kept": kept, "names": KINDS, "box": [WIDTH, FLOOR, TALL, DECADES]},
        stage=_stage(shown, r).replace("</svg>", _line(kept, len(shown["s"])) + "</svg>"),
        panel=_panel(shown, r, share_at(kept, r)),
        draw=script("updates.js").replace("SPECTRUM", script("spectra.js")),
        digits=3,
    )  # fmt: skip


class Cut(NamedTuple):
    """What a cut to one rank leaves: energy, and the improvement with and without those directions."""

    rank: int
    energy: float
    kept: float
    rest: float


def cut_table(results):
    """[Cut], one for each rank: means over the seeds, as shares of all energy and of all improvement."""
    rows = {}
    for run in results["cuts"]:
        won = run["base"] - run["full"]
        row = (run["energy"], (run["base"] - run["kept"]) / won, (run["base"] - run["rest"]) / won)
        rows.setdefault(run["rank"], []).append(row)
    return [Cut(rank, *(float(v) for v in np.mean(row, axis=0))) for rank, row in sorted(rows.items())]


def share_at(kept, r):
    """The measured share at rank r, on a straight line between the ranks that were measured."""
    return float(np.interp(r, *zip(*kept, strict=True)))


def _matrices(layer):
    """{"delta": …, "W0": …, "noise": …} for spectra.js; noise is Gaussian, of the shape and norm of ΔW."""
    shape = layer["shape"]
    noise = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), compute_uv=False)
    noise *= np.linalg.norm(layer["delta"]) / np.linalg.norm(noise)
    values = {"delta": np.array(layer["delta"]), "W0": np.array(layer["W0"]), "noise": noise}
    return {name: rounded({"s": s / s[0], "top": s[0], "shape": shape}, 3) for name, s in values.items()}


def _line(kept, count):
    """The survival line over the bars; updates.js draws the same."""
    points = [(r * WIDTH / count, FLOOR - min(1, max(0, share)) * TALL) for r, share in kept]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    line = f'<path fill="none" stroke-width="2" d="{path(points)}"/>'
    return f'<g data-el="survival" stroke="var(--c)" fill="var(--c)">{line}{dots}</g>'


def _panel(matrix, r, share):
    """The names that spectra.js fills in, and `survives`."""
    energy, (m, n) = _energy(matrix["s"])[r - 1], matrix["shape"]
    return (
        f"<div>{key('a', 'kept')}{key('b', 'dropped')}{key('c', 'improvement')}"
        '<span class="lo-keyed">┄ the others</span></div>'
        + tiles(
            ("survives", f"{100 * share:.0f} %", "of the improvement survives"),
            ("energy", f"{100 * energy:.1f} %", "of the energy kept"),
        )
        + tiles(
            ("error", f"{100 * np.sqrt(1 - energy):.1f} %", "error, ‖W − Wᵣ‖ / ‖W‖"),
            ("params", f"{r * (m + n):,}", f"numbers instead of {m} × {n} = {m * n:,}"),
        )
        + meter("bar", r * (m + n) / (m * n))
    )


def _alt(layers, kept):
    halves = {
        name: sorted(_rank_for(m[kind]["s"], 0.5) for m in layers.values()) for kind, name in KINDS.items()
    }
    told = ", ".join(f"{name} {row[0]} to {row[-1]}" for name, row in halves.items())
    points = ", ".join(
        f"{100 * share:.0f} percent at rank {rank}" for rank, share in kept if rank in (1, 4, 8)
    )
    return (
        "Bars of singular values of one layer, and a line for what survives a cut. Number of directions that "
        f"hold half of the energy, over {len(layers)} layers: {told}. Improvement that survives: {points}."
    )
