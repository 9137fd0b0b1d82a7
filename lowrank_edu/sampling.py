"""Texts out of a model."""

from contextlib import contextmanager

import torch

from .batches import context
from .chats import rendered
from .layouts import turns_of


@torch.no_grad()
def sample(model, tok, prompts="", *, n=4, max_new_tokens=80, temperature=1.0, seed=0):
    """n continuations of one prompt (or one of each of several), as a list of texts without special tokens.

    A prompt follows the end-of-text token, as every training example does (`tokenize`). A prompt may also be a
    conversation, a list of {"role", "content"}: the tokenizer's chat template writes it, and the text is the
    assistant's answer alone. temperature=0 takes the most likely token each time. The caller's random state is put
    back. Raises ValueError where the tokens are more than the model sees, and for a conversation without a template.
    """
    prompts = [prompts] * n if isinstance(prompts, str) or _is_chat(prompts) else list(prompts)
    rows = [_tokens(tok, prompt) for prompt in prompts]
    width, device = max(len(ids) for ids in rows), next(model.parameters()).device
    most = context(model) - width + 1  # the last new token is not read again
    if max_new_tokens > most:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} after {width} tokens (end-of-text and prompt) is more than this "
            f"model sees. Take max_new_tokens ≤ {most}."
        )
    pad = tok.pad_token_id if tok.pad_token_id is not None else tok.eos_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    how = (
        {"do_sample": True, "temperature": float(temperature), "top_k": 0} if temperature > 0 else {"do_sample": False}
    )
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            with _padding_is_masked(model):
                out = model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **how
                )
    finally:
        model.train(was_training)
    shown = [row[width:] if _is_chat(prompt) else row for row, prompt in zip(out, prompts, strict=True)]
    return tok.batch_decode(shown, skip_special_tokens=True)


def _is_chat(prompt):
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], dict)


def _tokens(tok, prompt):
    if _is_chat(prompt):
        text = rendered(tok, turns_of(prompt, "prompts"), "prompts", answer=True)
        return tok(text, add_special_tokens=False)["input_ids"]
    return [tok.eos_token_id] + (tok(prompt, add_special_tokens=False)["input_ids"] if prompt else [])


@contextmanager
def _padding_is_masked(model):
    """No warning that a mask is missing. `generate` drops a mask that hides nothing, and GPT-2 takes the end-of-text
    token, with which our rows begin, for padding without a mask, because its configuration uses it for both."""
    config = getattr(model, "config", None)
    pad = getattr(config, "pad_token_id", None)
    if pad is not None:
        config.pad_token_id = None
    try:
        yield
    finally:
        if pad is not None:
            config.pad_token_id = pad
