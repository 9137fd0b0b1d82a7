"""Question 4, *schedule*: who trains when? `attach` drives a method's schedule from any training loop.

A method with a schedule (AdaLoRA, LaMDA, AFLoRA, LISA, …) has `schedule(model, name, total_steps)`, which
returns a `Schedule`. `attach` hangs it on the optimizer, so that it moves exactly when the optimizer does:

    step k of the optimizer:   schedule.add_penalty_gradient()   # unless the loop adds schedule.penalty()
                               schedule.before_step(optimizer)   # gradients are there, weights are old
                               ... the optimizer's own step ...
                               schedule.step += 1                # now k
                               schedule.after_step(optimizer)    # weights are new, gradients still there

A step that GradScaler skips, a micro-batch of gradient accumulation, and a step in which no parameter of the
adapter has a gradient do not count. Schedules live with the model, so a copy of the model has its own.

Training such an adapter without its schedule is an error: see `reminding.py`.
"""

import copy
import gc
import weakref

import torch

from .layers import Holder

_ATTACHED = weakref.WeakValueDictionary()  # id(model) -> Attachment, which keeps its model alive


class Schedule:
    """What a schedule can do; a method's own schedule overrides what it needs.

    name      the adapter
    places    {path: Holder} of the adapter
    step      completed optimizer steps
    history   list of plain dicts, what a chapter plots
    """

    def __init__(self, model, name, total_steps=None):
        self.name, self.total_steps, self.step, self.history = name, total_steps, 0, []
        self.places = places(model, name)

    @property
    def updates(self):
        """{path: Update} of the adapter."""
        return {path: holder.updates[self.name] for path, holder in self.places.items()}

    def parameters(self):
        """The adapter's parameters that are trained now, each once."""
        found = (p for update in self.updates.values() for p in update.parameters() if p.requires_grad)
        return list({id(p): p for p in found}.values())

    def check(self, optimizer):
        """Raise ValueError when this optimizer cannot serve the schedule; `attach` asks before anything changes."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = sum(id(p) not in held for p in self.parameters())
        if missing:
            raise ValueError(
                f"the optimizer does not hold {missing} of the trained parameters of adapter {self.name!r}. Make it "
                "after adapt or load_adapter, from the parameters that have requires_grad."
            )

    def begin(self, optimizer):
        """Called by `attach`, also when the schedule has begun already: set what holds from this step on."""

    def before_step(self, optimizer):
        """Gradients are complete and unscaled, weights are those that gave them. May run again if the step fails."""

    def after_step(self, optimizer):
        """The optimizer has moved the weights; `self.step` counts this step already."""

    def will_keep(self):
        """Bytes of what the schedule will remember of the weights between steps, for `memory.plan`."""
        return 0

    def penalty(self):
        """A term of the loss with its graph, or None."""
        return None

    def add_penalty_gradient(self):
        """Add the gradient of `penalty()` to `.grad`, in closed form: a hook never sees the loss."""

    def state(self):
        """All that is needed to go on: tensors and plain values. `load_state` of a new schedule restores it exactly."""
        return {"step": self.step, "total_steps": self.total_steps, "history": copy.deepcopy(self.history)}

    def load_state(self, state):
        self.step, self.total_steps = state["step"], state["total_steps"]
        self.history = copy.deepcopy(state["history"])


def places(model, name):
    """{path: Holder} of adapter `name`."""
    found = {path: m for path, m in model.named_modules() if isinstance(m, Holder)}
    return {path: holder for path, holder in found.items() if name in holder.updates}


def forget(optimizer, parameter):
    """Drop a parameter that was frozen for good from the optimizer's state: its moments are freed.

    Freezing is `update.fix(name)`: without a gradient the optimizer does not touch it. The parameter groups keep
    their shape, so that a saved optimizer still fits.
    """
    optimizer.state.pop(parameter, None)


class Attachment:
    """Schedules hung on an optimizer. `detach()` ends it; so does the end of a `with` block.

    schedules   {adapter name: Schedule}; empty where no active adapter has one
    """

    def __init__(self, model, optimizer, schedules, in_loss):
        self.model, self.schedules, self.in_loss, self.moving, self.prepared = model, schedules, in_loss, (), None
        self.optimizer = weakref.ref(optimizer)  # an optimizer that is gone must not stay attached
        self.handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def penalty(self):
        """The sum of the schedules' loss terms with its graph, or None where there is none."""
        terms = [s.penalty() for s in self.schedules.values() if is_active(s)]
        terms = [term for term in terms if term is not None]
        return sum(terms) if terms else None

    def detach(self):
        """Take the hooks off. The schedules stay with the model; attaching again goes on where they are."""
        for handle in self.handles:
            handle.remove()
        if _ATTACHED.get(id(self.model)) is self:
            del _ATTACHED[id(self.model)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.detach()

    def _before(self, optimizer, args, kwargs):
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._prepare(optimizer)
            return None

        def evaluated():  # the gradients come from the closure, inside the step
            loss = closure()
            self._prepare(optimizer)
            return loss

        return (args[0], evaluated, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _prepare(self, optimizer):
        if self.moving and self.prepared == self._gradients():
            return  # super().step() inside the step of a subclass, or the same step again after it failed
        self.moving = ()
        if not skips(optimizer):
            _unscale(optimizer)
            self.moving = [s for s in self.schedules.values() if _has_gradient(s)]  # one that sleeps has none
        for schedule in self.moving:
            if not self.in_loss:
                schedule.add_penalty_gradient()
            schedule.before_step(optimizer)
        self.prepared = self._gradients()

    def _gradients(self):
        """Which gradients there are, and how often each has been changed."""
        found = [p.grad for s in self.schedules.values() for p in s.parameters()]
        return [(id(g), g._version) for g in found if g is not None]

    def _after(self, optimizer, args, kwargs):
        moved, self.moving = self.moving, ()
        for schedule in moved:
            schedule.step += 1
            schedule.after_step(optimizer)


def is_active(schedule):
    return any(schedule.name in holder.active for holder in schedule.places.values())


def _has_gradient(schedule):
    return any(p.grad is not None for p in schedule.parameters())


def skips(optimizer):
    """Whether a fused optimizer will skip this step, because GradScaler found Inf or NaN."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def _unscale(optimizer):
    """Divide the gradients by GradScaler's factor now, where a fused optimizer would do so itself in its step."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if p.grad is not None:
                p.grad.div_(scale)
        optimizer.grad_scale = None


def attach(model, optimizer, total_steps=None, *, penalty_in_loss=False):
    """Let the schedules of the active adapters follow this optimizer, in any training loop.

    model            the adapted model, or a wrapper around it
    optimizer        the one that trains the adapter; a wrapper such as accelerate's is looked through
    total_steps      length of the run in optimizer steps, for methods that need it and do not fix it themselves
    penalty_in_loss  the loop adds `attachment.penalty()` to its loss; otherwise its gradient is added before
                     each step, after any clipping that the loop does

    Returns an Attachment. A schedule that has begun goes on where it stands, with its own total_steps. For adapters
    that have no schedule this does nothing. Raises ValueError, with nothing changed, when the model has no adapter,
    is attached already, or when the optimizer does not hold the trained parameters.
    """
    model = _root(model)
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{optimizer!r} is not a torch optimizer: give the one whose step() trains the adapter.")
    methods = model.__dict__["lowrank_methods"]
    active = [name for name in methods if any(name in h.active for h in places(model, name).values())]
    other = attached_to(model)
    if other is not None:
        raise ValueError(
            f"the model is attached to {'this' if other is optimizer else 'another'} optimizer already. "
            "Call .detach() on what attach returned."
        )
    begun, schedules = model.__dict__.get("lowrank_schedules", {}), {}
    for name in active:
        schedule = begun.get(name) or methods[name].schedule(model, name, total_steps)
        if schedule is not None:
            schedules[name] = schedule
            schedule.check(optimizer)
    model.__dict__["lowrank_schedules"] = begun | schedules
    model.__dict__.pop("lowrank_seen", None)
    _ATTACHED[id(model)] = attachment = Attachment(model, optimizer, schedules, penalty_in_loss)
    for schedule in schedules.values():
        schedule.begin(optimizer)
    return attachment


def attached_to(model):
    """The living optimizer that the model is attached to, or None."""
    if id(model) in _ATTACHED:
        gc.collect()  # a learning-rate scheduler ties its optimizer into a cycle
    attachment = _ATTACHED.get(id(model))
    return None if attachment is None else attachment.optimizer()


def schedule_of(model, name="default"):
    """The schedule of adapter `name`: its `history`, `state()` and `step`. ValueError before the first `attach`."""
    schedules = _root(model).__dict__.get("lowrank_schedules", {})
    if name not in schedules:
        raise ValueError(f"adapter {name!r} has no schedule yet; it begins with lo.attach(model, optimizer).")
    return schedules[name]


def _root(model):
    """The model that `adapt` was called with, inside whatever wraps it."""
    root = next((m for m in model.modules() if m.__dict__.get("lowrank_methods")), None)
    if root is None:
        raise ValueError("this model has no adapter. Call adapt or load_adapter first.")
    return root
