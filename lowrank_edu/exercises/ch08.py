"""Exercises of chapter 8: what a training step holds, and for how long."""

from ..checking import Exercise, Mistake
from ..checks.comparing import close

# ---- how much is left ----------------------------------------
SHARE = Exercise(
    id="ch08-share",
    title="One weight in twenty",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, made before you read on",
    know="why memory does not shrink as the number of trained weights does",
    reference="60 %",
    options=("5 %", "25 %", "60 %", "95 %"),
    mistakes=[
        Mistake(
            "as the count",
            "5 %",
            "That is the share of the weights that are trained. But the frozen ones still have to be there to "
            "compute with, and so does everything that the backward pass reads again.",
        ),
        Mistake(
            "no activations",
            "25 %",
            "Good bookkeeping for the weights: of 16 bytes each, 12 go away. It leaves out what the forward pass "
            "keeps for the backward pass, which here is the largest part.",
        ),
        Mistake(
            "only weights",
            "95 %",
            "So little would be gone if weights were all. Each trained weight also has a gradient and two numbers "
            "of Adam's: three more of its size, and LoRA saves those.",
        ),
    ],
    praise="Gradients and Adam's numbers almost vanish; weights stay, and activations hardly shrink.",
)


# ---- the parts that can be counted on paper ----------------------------------------
def held(shapes, r):
    """Bytes of (parameters, gradients, optimizer state): frozen fp32 layers, a LoRA of rank r on each, Adam."""
    base = sum(d_out * d_in for d_out, d_in in shapes)
    adapters = sum(r * (d_out + d_in) for d_out, d_in in shapes)
    return 4 * (base + adapters), 4 * adapters, 8 * adapters  # only what is trained has the last two


def _held(parameters="base + own", gradients="own", state="2 * own", bytes=4, own=lambda o, i, r: r * (o + i)):
    def count(shapes, r):
        names = {"base": sum(o * i for o, i in shapes), "own": sum(own(o, i, r) for o, i in shapes)}
        return tuple(bytes * eval(text, {}, names) for text in (parameters, gradients, state))

    return count


def _shapes(rng):
    return [tuple(int(n) for n in rng.permutation(range(3, 40))[:2]) for _ in range(int(rng.integers(2, 5)))]


HELD = Exercise(
    id="ch08-held",
    title="Count three of the four parts",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="how many numbers A and B have, and what Adam remembers",
    know="which parts follow the whole model, and which only the adapter",
    reference=held,
    cases=lambda rng: [(_shapes(rng), r) for r in (2, 3, 1)],
    mistakes=[
        Mistake(
            "numbers",
            _held(bytes=1),
            "These are numbers, not bytes: fp32 takes 4 bytes for each.",
        ),
        Mistake(
            "half precision",
            _held(bytes=2),
            "2 bytes for each number is fp16 or bf16. These are kept in fp32: 4 bytes.",
        ),
        Mistake(
            "gradients of all",
            _held(gradients="base + own"),
            "You gave every weight a gradient. A frozen weight has none: the backward pass never computes it.",
        ),
        Mistake(
            "state of all",
            _held(state="2 * (base + own)"),
            "The optimizer only knows the parameters that it was given, and those are the trained ones: no two "
            "numbers for each frozen weight.",
        ),
        Mistake(
            "nothing is frozen",
            _held(gradients="base + own", state="2 * (base + own)"),
            "That is full fine-tuning, with an adapter on top: gradients and Adam's numbers for every weight. "
            "Here W0 is frozen.",
        ),
        Mistake(
            "one moment",
            _held(state="own"),
            "Adam remembers two numbers for each trained one: a mean of its gradients and a mean of their squares.",
        ),
        Mistake(
            "three",
            _held(state="3 * own"),
            "Three numbers for each trained one in the optimizer: did you count the gradient there too? It has its "
            "own part.",
        ),
        Mistake(
            "no adapter",
            _held(parameters="base"),
            "A and B are parameters as well, and have to be held beside W0.",
        ),
        Mistake(
            "no base",
            _held(parameters="own"),
            "W0 is frozen, not gone: every forward pass multiplies by it.",
        ),
        Mistake(
            "square",
            _held(own=lambda o, i, r: 2 * r * i),
            "A has r · d_in numbers and B has d_out · r. 2 · r · d_in is right for square layers only.",
        ),
        Mistake(
            "whole matrix",
            _held(own=lambda o, i, r: o * i),
            "You counted ΔW as a whole d_out × d_in matrix. It is stored as two thin factors: r · (d_out + d_in).",
        ),
    ],
    praise="The first part follows the model, the other two only the adapter. The fourth needs a forward pass.",
)


# ---- what freezing saves ----------------------------------------
SAVED = Exercise(
    id="ch08-saved",
    title="What two thirds becomes",
    kind="number",
    difficulty=2,
    minutes=5,
    needs="the four parts, and what becomes of each",
    know="when “up to two thirds less memory” is far away",
    reference=37.5,
    compare=close(5e-3),
    mistakes=[
        Mistake(
            "no activations",
            75.0,
            "12 of the 16 bytes per weight are gone, that is right. But 16 GB of activations stand beside them "
            "before and after: put them into both sums.",
        ),
        Mistake(
            "as printed",
            lambda n: abs(n - 200 / 3) < 0.7,
            "That is the “up to” of the paper: weights and Adam's two numbers, no gradients, no activations. "
            "Here the step holds all four parts.",
        ),
        Mistake(
            "what is left",
            62.5,
            "62.5 % is what is left. How much is saved?",
        ),
        Mistake(
            "only Adam",
            25.0,
            "You saved Adam's 8 GB. A frozen weight has no gradient either: 4 GB more.",
        ),
        Mistake(
            "only gradients",
            12.5,
            "You saved the gradients. Adam's two numbers per weight belong to the trained weights too.",
        ),
        Mistake(
            "weights too",
            50.0,
            "You saved the weights as well: 16 of 32 GB. Frozen weights are still multiplied by, so they stay.",
        ),
        Mistake(
            "one moment",
            lambda n: abs(n - 100 * 8 / 28) < 0.2,
            "Adam keeps two numbers per trained weight, so its part is 8 GB, and the step holds 32 GB in all.",
        ),
        Mistake(
            "gigabytes",
            12,
            "12 GB are saved, that is right. The question asks for percent: of how many?",
        ),
        Mistake("a share", 0.375, "Right, as a share. In percent it is 100 times that."),
    ],
    praise="32 GB become 20. The larger the batch, the smaller the saving.",
)


# ---- checkpointing ----------------------------------------
def peak(L, k, block, x):
    """Bytes at the worst moment: L blocks, a checkpoint before every k-th; a block keeps `block`, its input `x`."""
    return (L // k) * x + k * block  # the inputs of all groups, and the one group that is computed again


PEAK = Exercise(
    id="ch08-peak",
    title="Forget, and compute again",
    kind="code",
    difficulty=3,
    minutes=8,
    needs="a drawing of L blocks in groups of k",
    know="what checkpointing keeps, and what comes back",
    reference=peak,
    cases=lambda rng: [  # the inputs are less than the group, except in the last case
        (L, k, int(rng.integers(200, 400)), int(rng.integers(x, x + 20)))
        for L, k, x in [(12, 3, 7), (24, 4, 9), (48, 2, 90)]
    ],
    mistakes=[
        Mistake(
            "nothing comes back",
            lambda L, k, block, x: (L // k) * x,
            "That is what is kept when the forward pass ends. In the backward pass one group at a time is computed "
            "again, and then all of it is there.",
        ),
        Mistake(
            "one block comes back",
            lambda L, k, block, x: (L // k) * x + block,
            "Between two checkpoints lie k blocks, and they are computed again together: k blocks come back, not one.",
        ),
        Mistake(
            "all come back",
            lambda L, k, block, x: (L // k) * x + L * block,
            "You let every block come back at once: then nothing is saved. A group is freed before the next one is "
            "computed again.",
        ),
        Mistake(
            "every input",
            lambda L, k, block, x: L * x + k * block,
            "You kept the input of every block. A checkpoint stands only before every k-th: L // k inputs.",
        ),
        Mistake(
            "larger of the two",
            lambda L, k, block, x: max((L // k) * x, k * block),
            "The inputs of the groups are still there while a group is computed again: add the two.",
        ),
        Mistake(
            "exchanged",
            lambda L, k, block, x: k * x + (L // k) * block,
            "k and L // k have changed places: there are L // k groups of k blocks.",
        ),
        Mistake(
            "no checkpoints",
            lambda L, k, block, x: L * block,
            "That is a step without checkpointing: every block keeps all of its own.",
        ),
        Mistake(
            "group without input",
            lambda L, k, block, x: k * block,
            "That is the group that comes back. The inputs of all groups wait beside it.",
        ),
    ],
    praise="Small groups keep many inputs, large groups bring much back; libraries take k = 1, one block at a time.",
)


# ---- what fits ----------------------------------------
FITS = Exercise(
    id="ch08-fits",
    title="Fifteen gigabytes",
    kind="choice",
    difficulty=2,
    minutes=6,
    needs="the planner above, or `lo.memory.plan`",
    know="which part to attack when a step does not fit",
    reference="D",
    options=("A", "B", "C", "D"),
    mistakes=[
        Mistake(
            "full",
            "A",
            "774 million weights at 16 bytes are 12.4 GB, and that alone would fit. One row of 512 tokens adds "
            "more than 4 GB of activations.",
        ),
        Mistake(
            "adapter",
            "B",
            "The adapter is tiny, but 6.7 billion frozen weights at 2 bytes are 13.5 GB, and the activations of "
            "one row of 512 tokens no longer fit beside them.",
        ),
        Mistake(
            "SGD",
            "C",
            "SGD remembers nothing, so the optimizer's part is empty. But each trained weight still has a "
            "gradient of its own size: 13.5 GB twice.",
        ),
    ],
    praise="4 bits for the weights, an adapter for gradients and Adam, checkpointing for the activations: one "
    "remedy for each part.",
)

EXERCISES = [SHARE, HELD, SAVED, PEAK, FITS]
