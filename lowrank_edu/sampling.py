"""Texts out of a model."""

import torch

from .batches import context


@torch.no_grad()
def sample(model, tok, prompts="", *, n=4, max_new_tokens=80, temperature=1.0, seed=0):
    """n continuations of one prompt (or one of each of several), as a list of texts without special tokens.

    A prompt follows the end-of-text token, as every training example does (`tokenize`). temperature=0 takes the most
    likely token each time. The caller's random state is put back.
    """
    prompts = [prompts] * n if isinstance(prompts, str) else list(prompts)
    rows = [[tok.eos_token_id] + (tok(p, add_special_tokens=False)["input_ids"] if p else []) for p in prompts]
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
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **how
            )
    finally:
        model.train(was_training)
    return tok.batch_decode(out, skip_special_tokens=True)
