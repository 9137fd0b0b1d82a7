"""What a model writes while it learns: a recorded training run, one frame per stop.   chapters 3 and 7"""

from html import escape

from .. import shipped
from ..corpus.restaurants import restaurants, slot_accuracy
from ..corpus.styles import get
from .page import Choice, Figure, Replay, meter, script, tiles
from .still import text_picture

CAPTION = (
    "A recorded run: play it, or step with the arrow keys. Words that only this style has are marked. Every "
    "stop samples with the same random numbers. Which comes first: the opening words, or the vocabulary? And "
    "does the story stay a story?"
)
CSS = """ME .text{margin:0;min-height:13em;padding:.8rem 1rem;border-radius:8px;
border-left:4px solid var(--a);font:16px/1.6 Georgia,serif;background:var(--faint)}
ME mark{background:color-mix(in srgb,var(--b) 26%,transparent);color:inherit;border-radius:3px}"""


def training_replay(record, slug="replay", title="When does the style arrive?", caption=CAPTION):
    """A recorded training run to play: sampled texts, the share of marks, and the loss at each stop.

    record: {"style", "steps", "loss", "score", "texts"}: per stop the step, the loss on held-out texts in
    nats a token, the mean style score (0 … 1), and a list of texts; "floor": the loss that no model can beat.
    "marks": the words to mark, if they are not those of a style of the corpus.
    ValueError: the lists differ in length.
    """
    stops = len(record["steps"])
    if any(len(record[name]) != stops for name in ("loss", "score", "texts")):
        lengths = {name: len(record[name]) for name in ("steps", "loss", "score", "texts")}
        raise ValueError(f"a record has one entry per stop in each list, but has {lengths}. Record it again.")
    stories = len(record["texts"][0])
    controls = [
        Replay("stop", "Training step", list(range(stops)), labels=_labels(record), milliseconds=1500)
    ]
    if stories > 1:
        controls.append(Choice("story", "Story", {str(i): str(i + 1) for i in range(stories)}))
    return Figure(
        slug=slug,
        title=title,
        alt=f"A text written by the model. Over {record['steps'][-1]} training steps the share of "
        f"{record['style']} marks goes from {record['score'][0]:.0%} to {record['score'][-1]:.0%}, and the "
        f"loss from {record['loss'][0]:.2f} to {record['loss'][-1]:.2f} nats per token.",
        caption=caption,
        controls=controls,
        data={k: record[k] for k in ("style", "loss", "score", "texts", "floor")}
        | {"step": record["steps"], "marks": sorted(record.get("marks") or get(record["style"]).marks)},
        stage=f'<p class="text" data-el="text">{escape(record["texts"][0][0].strip())}</p>',
        still=text_picture(record["texts"][0][0].strip()),
        panel=tiles(
            ("score", f"{100 * record['score'][0]:.0f} %", f"{record['style']} marks"),
            ("loss", f"{record['loss'][0]:.2f}", f"loss, nats per token (floor {record['floor']:.2f})"),
        )
        + meter("bar", record["score"][0]),
        draw=script("samples.js"),
        css=CSS.replace("ME", f"#fig-{slug}"),
    )


def _labels(record):
    return [f"{step:,}" for step in record["steps"]]


def facts_replay(results=None, slug="facts-replay"):
    """SmolLM2 learning to say a table: the first recorded run of chapter 7, stop by stop.

    results: what `shipped.results("ch07_real")` gives (default).
    """
    results = results or shipped.results("ch07_real")
    run, facts = results["runs"]["smollm2-135m lora 0"], restaurants(8, 7)[0]
    base, stops = results["base"]["smollm2-135m"], results["stops"]["smollm2-135m"]
    tokens = base["tokens"]["held"]
    before = sum(loss * n for loss, n in zip(base["held"], tokens, strict=True)) / sum(tokens)
    record = {
        "style": "fact",
        "steps": stops,
        "loss": [before, *(run["curve"][stop - 1] for stop in stops[1:])],
        "score": [slot_accuracy(facts, text) for text in run["texts"]],
        "texts": [[text or "(nothing)"] for text in run["texts"]],
        "floor": base["floor"],
        "marks": list(vars(facts).values()),
    }
    caption = (
        f"The table: {results['prompt']} Greedy completions of one recorded run; words of the table are marked. After "
        "the first stop the loss is that of the batch just trained on, not of held-out texts. What comes first, the "
        "form of the sentence or its facts?"
    )
    return training_replay(record, slug, "When do the facts arrive?", caption)
