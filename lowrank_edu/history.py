"""What happened in a training run: losses over steps."""

import csv
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class History:
    """What happened: one entry of `step` and `loss` per step, `eval_step` and `eval_loss` per evaluation.

    Losses are means in nats per target token. `penalty` is what the method's schedule adds to the loss (AdaLoRA),
    one entry per step, and is not part of `loss`; empty where there is none. `score` has what a scorer said at each
    evaluation; `stopped` says why a run ended early, if it did.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    eval_step: list[int] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    stopped: str | None = None

    @property
    def perplexity(self):
        """e to the power of the evaluated losses: how many words the model hesitates between."""
        return [math.exp(loss) for loss in self.eval_loss]

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

    def to_json(self, path):
        """Write everything as one JSON object."""
        Path(path).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
