"""Loss over steps of a live training run: a PNG, because its last digits differ from processor to processor."""

from . import style


def loss_curve(history, floor=None):
    """Training loss (thin), evaluation loss (dots) and the loss floor of the data (dashed) against the step.

    history: a `History`, losses in nats per target token. floor: the lowest loss any model can reach, or None.
    Raises ValueError if nothing has been recorded yet.
    """
    if not history.loss:
        raise ValueError("this history holds no steps yet: plot it after train has returned it.")
    import matplotlib.pyplot as plt

    with style.book():
        fig, ax = plt.subplots()
        ax.plot(history.step, history.loss, linewidth=1, label="training batch")
        if history.eval_loss:
            ax.plot(history.eval_step, history.eval_loss, "o-", label="held-out texts")
        if floor is not None:
            ax.axhline(
                floor, linestyle="--", color=style.INK, linewidth=1, label="floor: entropy of the text"
            )
        ax.set_xlabel("step")
        ax.set_ylabel("loss, nats per token")
        ax.set_ylim(bottom=0)
        ax.legend()
        known = "; a dashed line marks the floor" if floor is not None else ""
        return style.photo(fig, f"Loss against training step, one point a step{known}.")
