"""Texts to examples, examples to batches, batches to a loss."""

import torch
import torch.nn.functional as F

from .fast import is_fast
from .fast.loss import summed_loss, usable
from .front import front_length
from .processes import Alone, shares, total


def tokenize(tok, texts, max_length=None):
    """Texts to training examples: [{"input_ids", "labels"}], LongTensors.

    Every example starts and ends with the end-of-text token, so that its first word is predicted too; the
    number of target tokens is then the text's own plus one. Longer ones are cut to `max_length`, ending
    included.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of strings, even for one text: [text].")
    if max_length is not None and max_length < 2:
        raise ValueError(f"max_length={max_length}: an example needs a token to see and one to predict.")
    data, end = [], [tok.eos_token_id]
    for ids in tok(list(texts), add_special_tokens=False)["input_ids"] if texts else []:
        ids = torch.tensor((end + ids + end)[:max_length], dtype=torch.long)
        data.append({"input_ids": ids, "labels": ids.clone()})
    return data


def collate(examples, device):
    """Pad a list of examples to one batch; padding is masked out of attention (0) and of the loss (−100).

    Packed rows (see `data.packed`) get a mask (rows, 1, tokens, tokens) that shows a token only its own segment up to
    itself, and the positions that begin anew with each segment.
    """

    def pad(key, value):
        rows = [example[key] for example in examples]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value).to(device)

    ids = pad("input_ids", 0)
    if "segments" in examples[0]:
        return {"input_ids": ids, "labels": pad("labels", -100), "position_ids": pad("position_ids", 0),
                "attention_mask": block_mask(pad("segments", -1))}  # fmt: skip
    lengths = torch.tensor([len(example["input_ids"]) for example in examples], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": pad("labels", -100)}


def block_mask(segments):
    """(rows, 1, tokens, tokens) of True where row i may look at column j: same segment, not later."""
    n = segments.shape[1]
    earlier = torch.ones(n, n, dtype=torch.bool, device=segments.device).tril()
    return (earlier & (segments[:, :, None] == segments[:, None, :]))[:, None]


def targets(labels):
    """How many tokens of a row or a batch are learnt; position t predicts token t + 1."""
    return int((labels[..., 1:] != -100).sum())


def token_loss(model, batch, label_smoothing=0.0):
    """(sum of the losses in nats, number of target tokens); position t predicts token t + 1."""
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    if is_fast(model) and usable(model, labels.device):
        return summed_loss(model, inputs, labels, label_smoothing), targets(labels)
    logits = model(**inputs).logits[:, :-1]
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum",
        label_smoothing=label_smoothing,
    )  # fmt: skip
    return loss, targets(labels)


@torch.no_grad()
def evaluate(model, data, *, batch_size=32, together=False):
    """Mean loss of `data` in nats per target token, in eval mode; the first token of an example is given,
    not scored. together: several processes share the rows, and each is told the mean of all; every one has to call."""
    need_data(model, data)
    was_training, device = model.training, next(model.parameters()).device
    parts = shares(data, batch_size, None if together else Alone())
    model.eval()
    try:
        losses = [token_loss(model, collate(part, device)) for part in parts]
    finally:
        model.train(was_training)
    sums = [sum(float(loss) for loss, _ in losses), sum(count for _, count in losses)]
    loss, count = total(sums, device) if together else sums
    return loss / count


def context(model):
    """How many tokens the model can see, next to a prefix if it has one."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", float("inf")) - front_length(model)


def need_stream(model, stream):
    """What `need_data` asks of a list, asked of a stream, whose longest example is not known before it comes."""
    most, room = stream.max_length, context(model)
    if room < float("inf") and (most is None or most > room):
        raise ValueError(f"the stream has max_length={most}; this model sees {room}: Stream(…, max_length={room}).")
    need_data(model, [stream.look()])


def need_data(model, data):
    if not len(data) or "labels" not in data[0]:
        raise ValueError("data is a list of examples with input_ids and labels: make it with tokenize(tok, texts).")
    if not any((example["labels"][1:] != -100).any() for example in data):
        raise ValueError("data holds no target token: every label after the first is −100 or missing.")
    longest, room = max(len(example["input_ids"]) for example in data), context(model)
    if longest > room:
        raise ValueError(
            f"data holds an example of {longest} tokens; this model sees {room}: tokenize(…, max_length={room})."
        )
    if front_length(model) and "segments" in data[0]:
        raise ValueError("packed rows and a prefix or prompt do not go together: read the data with pack=False.")
