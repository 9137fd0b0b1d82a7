"""One training loop for all chapters: data in, history out. Only parameters with gradients are trained."""

import csv
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from tqdm import tqdm  # the text bar: a widget bar is dead on a page, and its text differs from run to run

from .front import front_length
from .rates import parameter_groups
from .schedules import attach
from .switching import adapter_names


@dataclass
class History:
    """What happened: one entry of `step` and `loss` per step, `eval_step` and `eval_loss` per evaluation.

    Losses are means in nats per target token. `penalty` is what the method's schedule adds to the loss (AdaLoRA),
    one entry per step, and is not part of `loss`; empty where there is none.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    eval_step: list[int] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)

    def plot(self, floor=None):
        """A figure of the losses over steps, with the loss floor of the data if it is known."""
        from .figures import loss_curve

        return loss_curve(self, floor)

    def to_csv(self, path):
        """Write one row per step: step, loss, eval_loss (empty where there is none, as is the loss of step
        0)."""
        losses = dict(zip(self.step, self.loss, strict=True))
        evals = dict(zip(self.eval_step, self.eval_loss, strict=True))
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "loss", "eval_loss"])
            rows.writerows([s, losses.get(s, ""), evals.get(s, "")] for s in sorted({*losses, *evals}))


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
    """Pad a list of examples to one batch; padding is masked out of attention (0) and of the loss (−100)."""

    def pad(key, value):
        rows = [example[key] for example in examples]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value).to(device)

    ids = pad("input_ids", 0)
    lengths = torch.tensor([len(example["input_ids"]) for example in examples], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": pad("labels", -100)}


def token_loss(model, batch):
    """(sum of the losses in nats, number of target tokens); position t predicts token t + 1."""
    labels = batch["labels"][:, 1:]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return total, int((labels != -100).sum())


@torch.no_grad()
def evaluate(model, data, *, batch_size=32):
    """Mean loss of `data` in nats per target token, in eval mode; the first token of an example is given,
    not scored."""
    _need_data(model, data)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        parts = [token_loss(model, collate(data[i : i + batch_size], device)) for i in range(0, len(data), batch_size)]
    finally:
        model.train(was_training)
    return sum(float(total) for total, _ in parts) / sum(count for _, count in parts)


def train(
    model,
    data,
    *,
    steps=None,
    epochs=None,
    batch_size=16,
    lr=1e-3,
    seed=0,
    eval_data=None,
    eval_every=None,
    weight_decay=0.0,
    schedule="constant",
    progress=True,
):
    """Train whatever has gradients with AdamW; returns a History.

    data        examples made by `tokenize`
    steps       number of optimizer steps, or give epochs
    schedule    "constant" or "linear" (decay to zero)
    eval_data   evaluated before the first step, every `eval_every` steps and at the end

    A method's schedule runs by itself; one that has begun goes on (see `attach`). Order and dropout follow `seed`
    alone; the caller's random state is put back. Raises ValueError when
    nothing is trainable or an adapter is merged, and FloatingPointError with the step when the loss or its
    gradient is no longer finite: the parameters are then those before that step.
    """
    if (steps is None) == (epochs is None):
        raise ValueError(f"steps={steps}, epochs={epochs}: give one of them.")
    _need_data(model, data)
    if schedule not in ("constant", "linear"):
        raise ValueError(f"schedule={schedule!r} is not 'constant' or 'linear'.")
    counts = {"batch_size": batch_size, "steps": steps, "epochs": epochs, "eval_every": eval_every}
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r}: a whole number ≥ 1.")
    if not lr > 0:
        raise ValueError(f"lr={lr!r}: a learning rate is > 0; adapters usually want 1e-4 to 1e-2.")
    parameters = trainable_parameters(model)
    steps = steps or epochs * -(-len(data) // batch_size)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr, weight_decay))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps if schedule == "linear" else 1.0)
    device, was_training, history = parameters[0].device, model.training, History()
    order = torch.Generator().manual_seed(seed)

    def note_eval(step):
        if eval_data is not None:
            history.eval_step.append(step)
            history.eval_loss.append(evaluate(model, eval_data))

    note_eval(0)
    schedules = attach(model, optimizer, steps, penalty_in_loss=True) if adapter_names(model) else None
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            batches = _batches(len(data), batch_size, order)
            for step in tqdm(range(1, steps + 1), disable=not progress, desc="training", unit="step"):
                total, count = token_loss(model, collate([data[i] for i in next(batches)], device))
                loss = total / max(count, 1)  # a batch may hold no target at all
                optimizer.zero_grad(set_to_none=True)
                penalty = None if schedules is None else schedules.penalty()
                (loss if penalty is None else loss + penalty).backward()
                if not all(torch.isfinite(value).all() for value in (loss, *_gradients(parameters))):
                    raise FloatingPointError(
                        f"the loss is {float(loss.detach())} at step {step}, and it or its gradient is not finite; the "
                        "parameters are those before this step. The usual cause is a learning rate that is too high: "
                        f"lr={lr}; try a tenth."
                    )
                optimizer.step()
                rates.step()
                history.step.append(step)
                history.loss.append(float(loss.detach()))
                if penalty is not None:
                    history.penalty.append(float(penalty.detach()))
                if eval_every and step % eval_every == 0 and step < steps:
                    note_eval(step)
    finally:
        optimizer.zero_grad(set_to_none=True)
        model.train(was_training)
        if schedules is not None:
            schedules.detach()
    note_eval(steps)
    return history


def trainable_parameters(model):
    """The parameters that training will move; ValueError when there are none or when W0 is merged away."""
    from .adapting import adapted_layers

    if any(layer.kept is not None for layer in adapted_layers(model).values()):
        raise ValueError("an adapter is merged, so its factors are not in use. Call unmerge(model) before training.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("no parameter has a gradient. Call adapt first, or load_adapter(…, trainable=True).")
    return parameters


def _gradients(parameters):
    return [p.grad for p in parameters if p.grad is not None]


def _batches(n, batch_size, generator):
    """Endless batches of indices, each epoch in a new order."""
    while True:
        for part in torch.randperm(n, generator=generator).split(batch_size):
            yield part.tolist()


def _context(model):
    """How many tokens the model can see, next to a prefix if it has one."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", float("inf")) - front_length(model)


def _need_data(model, data):
    if not len(data) or "labels" not in data[0]:
        raise ValueError("data is a list of examples with input_ids and labels: make it with tokenize(tok, texts).")
    if not any((example["labels"][1:] != -100).any() for example in data):
        raise ValueError("data holds no target token: every label after the first is −100 or missing.")
    longest, room = max(len(example["input_ids"]) for example in data), _context(model)
    if longest > room:
        raise ValueError(
            f"data holds an example of {longest} tokens; this model sees {room}: tokenize(…, max_length={room})."
        )


@torch.no_grad()
def sample(model, tok, prompts="", *, n=4, max_new_tokens=80, temperature=1.0, seed=0):
    """n continuations of one prompt (or one of each of several), as a list of texts without special tokens.

    A prompt follows the end-of-text token, as every training example does (`tokenize`). temperature=0 takes the most
    likely token each time. The caller's random state is put back.
    """
    prompts = [prompts] * n if isinstance(prompts, str) else list(prompts)
    rows = [[tok.eos_token_id] + (tok(p, add_special_tokens=False)["input_ids"] if p else []) for p in prompts]
    width, device = max(len(ids) for ids in rows), next(model.parameters()).device
    most = _context(model) - width + 1  # the last new token is not read again
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
