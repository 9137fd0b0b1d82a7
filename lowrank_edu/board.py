"""Curves for TensorBoard, for those who want them: the package `tensorboard` is not needed otherwise."""

from contextlib import contextmanager


@contextmanager
def board(folder):
    """A function write(step, **numbers) that puts curves into `folder`; it does nothing without one.

    Raises ValueError where tensorboard is not installed.
    """
    if folder is None:
        yield lambda step, **numbers: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(f"tensorboard={str(folder)!r} needs the package: pip install tensorboard") from None
    with SummaryWriter(folder) as writer:
        yield lambda step, **numbers: [writer.add_scalar(name, value, step) for name, value in numbers.items()]
