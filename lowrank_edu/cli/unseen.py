"""Text that the tiny model cannot know: tokens that its pretraining never used."""

import json
import sys
from pathlib import Path

SEEN = Path(__file__).parents[1] / "assets" / "tiny-gpt2" / "seen_tokens.json"
NOTICE = 0.02  # a share of unseen tokens below this is a typing error or a name


def unseen_share(examples) -> float:
    """The share of the examples' tokens that tiny-gpt2 has never been trained on.

    Its tokenizer can write any text, byte by byte, but the model met only the tokens of the tiny world; the embeddings
    of all others are as they were drawn, and an adapter leaves them so.
    """
    seen = set(json.loads(SEEN.read_text("utf-8")))
    tokens = [int(token) for example in examples for token in example["input_ids"]]
    return sum(token not in seen for token in tokens) / max(len(tokens), 1)


def warn_of_unseen(examples) -> None:
    """One sentence on stderr where the data are in words that tiny-gpt2 does not have."""
    share = unseen_share(examples)
    if share > NOTICE:
        print(
            f"warning: {share:.0%} of the tokens in your data are unknown to tiny-gpt2, which has read nothing but the "
            "book's short stories. For your own text take --model gpt2 or --model smollm2-135m.",
            file=sys.stderr,
        )
