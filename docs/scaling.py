"""Arithmetic of LLaDA-8B with an energy on 1, 8 and 512 GPUs: writes docs/scaling.md.

python docs/scaling.py > docs/scaling.md
"""

import json
import textwrap
from dataclasses import dataclass

import torch

from edlm.memory import rows_at_once

# Of one H100 SXM with 80 GB, by its data sheet; and of its machine.
FLOP_RATE = 989e12  # dense bf16, a second
MEMORY = 80e9  # bytes
MEMORY_RATE = 3.35e12  # bytes a second
NVLINK = 450e9  # bytes a second, one way, to the other GPUs of the machine
NETWORK = 50e9  # bytes a second, one way, to other machines (400 Gbit/s for each GPU)
UTILISATION = 0.4  # assumed, not measured
GPUS = (1, 8, 512)

LENGTH = 1024  # tokens of a sequence, all written at once
STEPS = 128  # denoiser passes
CANDIDATES = 8  # k
TOP = 1  # alternatives in a server's answer, for each token


@dataclass(frozen=True)
class Transformer:
    """Shape of a Llama."""

    name: str
    width: int
    blocks: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool = False

    @property
    def of_block(self) -> int:
        """Weights of a block's matrices."""
        key_value = self.kv_heads * (self.width // self.heads)
        return 2 * self.width**2 + 2 * self.width * key_value + 3 * self.width * self.inner

    @property
    def of_table(self) -> int:
        """Weights of an embedding, or of the output layer."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All parameters, norms included."""
        norms = (2 * self.blocks + 1) * self.width
        return self.blocks * self.of_block + (1 if self.tied else 2) * self.of_table + norms

    def flops(self, tokens: int, length: int, outputs: int) -> float:
        """Of a pass over ``tokens`` in sequences of ``length``, with logits at ``outputs`` of them."""
        attention = 4 * length * self.width  # queries with keys, and weights with values; no use of causality
        return tokens * self.blocks * (2 * self.of_block + attention) + 2 * outputs * self.of_table

    @property
    def cache(self) -> int:
        """Bytes of keys and values of a token, bf16."""
        return 2 * 2 * self.blocks * self.kv_heads * (self.width // self.heads)


LLADA = Transformer("LLaDA-8B", 4096, 32, 32, 32, 12288, 126464)
SMALL = Transformer("causal LM of 1B (Llama 3.2)", 2048, 16, 32, 8, 8192, 128256, tied=True)
LARGE = Transformer("causal LM of 8B (Llama 3.1)", 4096, 32, 32, 8, 14336, 128256)


@dataclass(frozen=True)
class Head:
    """A residual head of one block, started cold, as `edlm train energy` makes it by default."""

    width: int = LLADA.width
    heads: int = LLADA.width // 32
    inner: int = 2 * LLADA.width

    @property
    def parameters(self) -> int:
        """All parameters: states in, tokens in, states out; the block; three norms."""
        return 3 * self.width**2 + 4 * self.width**2 + 3 * self.width * self.inner + 3 * self.width

    def flops(self, length: int, decided: int) -> float:
        """Of a step: keys and values of all states; then two streams of the tokens that it decides."""
        memory = 2 * length * 3 * self.width**2  # states in, keys and values
        streams = 2 * decided * 2 * self.parameters
        attention = 2 * decided * 4 * (length + decided) * self.width
        return memory + streams + attention + 2 * decided * LLADA.of_table

    def scores(self, length: int, decided: int) -> int:
        """Bytes of the attention scores of one row, float32, which are kept as a table."""
        return 4 * self.heads * decided * (length + decided)


HEAD = Head()
DRAWING = 4 + 4 + 8  # bytes of an entry of the logits: log-probabilities, their exponentials, float64 sums of these


@dataclass(frozen=True)
class Method:
    """What decides the tokens of a step."""

    name: str
    decided: int  # tokens whose logits are needed, in the mean step
    energy: float  # FLOPs of its energy, a row and step
    weights: int  # parameters of its energy
    lm: Transformer | None = None

    @property
    def denoiser(self) -> float:
        """FLOPs of the denoiser, a row and step."""
        return LLADA.flops(LENGTH, LENGTH, self.decided)

    @property
    def total(self) -> float:
        """FLOPs a row and step."""
        return self.denoiser + self.energy

    @property
    def speed(self) -> float:
        """Tokens a second of one GPU."""
        return LENGTH * UTILISATION * FLOP_RATE / (STEPS * self.total)


def scored(model: Transformer) -> float:
    """FLOPs of k whole candidates of a row."""
    return CANDIDATES * model.flops(LENGTH, LENGTH, LENGTH)


A_STEP, A_HALF = LENGTH // STEPS, LENGTH // 2
BASE = Method("the denoiser alone", A_STEP, 0.0, 0)
WITH_HEAD = Method("a head", A_STEP, HEAD.flops(LENGTH, A_STEP), HEAD.parameters)
WITH_SMALL = Method(SMALL.name, A_HALF, scored(SMALL), SMALL.parameters, SMALL)
WITH_LARGE = Method(LARGE.name, A_HALF, scored(LARGE), LARGE.parameters, LARGE)
METHODS = (BASE, WITH_HEAD, WITH_SMALL, WITH_LARGE)


def answer_bytes() -> int:
    """Bytes of a server's answer, a token: its spelling, log-probability and place, and the alternatives'."""
    entry = {" token": -12.345678901234567, **{f" other{i}": -1.2345678901234567 for i in range(TOP)}}
    return len(json.dumps([" token", -12.345678901234567, 12345, entry]))


SCORED_AT_ONCE = 16  # texts in a pass of an LM in the same process: `batch_size` of a TextEnergy
SCORING = 2 + 4 + 4  # bytes of an entry of its logits, which are computed in parts: bf16, float32, their exponentials


def activations(model: Transformer = LLADA) -> float:
    """Bytes of a row in a pass of a model: its stream, queries, keys, values and inner states, bf16."""
    return 2 * LENGTH * (6 * model.width + 3 * model.inner)


def drawing_bytes() -> int:
    """Bytes of the part of a table of logits from which tokens are drawn at once, whatever the batch."""
    return rows_at_once(1, torch.device("cuda")) * DRAWING


def bound_bytes() -> int:
    """Bytes of the table of a row's decision whose likelihood is computed: log-probabilities and their sums."""
    return LENGTH * LLADA.vocabulary * DRAWING


def scoring_bytes(method: Method) -> int:
    """Bytes of a pass of the energy's LM: a part of its logits, and its activations."""
    if method.lm is None:
        return 0
    return rows_at_once(1, torch.device("cuda")) * SCORING + SCORED_AT_ONCE * activations(method.lm)


def rows_that_fit(method: Method) -> int:
    """Rows of a batch that fit in what the weights leave of one GPU, a tenth kept free."""
    left = 0.9 * MEMORY - 2 * (LLADA.parameters + method.weights)
    return int((left - max(drawing_bytes(), scoring_bytes(method))) // activations())


def table(head: str, rows: list[list[str]]) -> str:
    """Of Markdown."""
    lines = [head, "| " + " | ".join("---" for _ in head.strip("| ").split(" | ")) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def giga(value: float, digits: int = 1) -> str:
    """In 1e9."""
    return f"{value / 1e9:,.{digits}f}"


def tera(value: float) -> str:
    """In 1e12."""
    return f"{value / 1e12:,.2f}"


def of_models() -> str:
    """Parameters, bytes and FLOPs of each model."""
    models = [LLADA, SMALL, LARGE]
    rows = [
        [
            m.name,
            giga(m.parameters, 2),
            giga(2 * m.parameters),
            giga(m.flops(1, LENGTH, 1)),
            f"{m.cache / 1024:,.0f}" if m is not LLADA else "none",
        ]
        for m in models
    ]
    rows.append(["head of one block", giga(HEAD.parameters, 2), giga(2 * HEAD.parameters), "below", "none"])
    return table("| model | 1e9 parameters | GB in bf16 | GFLOP a token | KiB of keys and values a token |", rows)


def of_steps() -> str:
    """Cost of a row and step by each method."""
    rows = [
        [
            m.name,
            tera(m.denoiser),
            tera(m.energy),
            f"{m.total / BASE.total:.2f}",
            f"{m.speed:,.0f}",
        ]
        for m in METHODS
    ]
    return table(
        "| decided by | TFLOP of the denoiser | TFLOP of the energy | times the base | tokens a second |", rows
    )


def of_memory() -> str:
    """What one GPU holds."""
    rows = [
        [
            m.name,
            giga(2 * (LLADA.parameters + m.weights)),
            f"{activations() / 1e6:,.0f}",
            giga(drawing_bytes()),
            giga(scoring_bytes(m)),
            str(rows_that_fit(m)),
        ]
        for m in METHODS
    ]
    return table(
        "| decided by | GB of weights | MB of activations a row | GB of logits | GB of a pass of the LM | rows |", rows
    )


def of_numbers() -> str:
    """Tokens a second of 1, 8 and 512 GPUs."""
    rows = [[m.name, *(f"{gpus * m.speed:,.0f}" for gpus in GPUS)] for m in METHODS]
    return table("| decided by | " + " | ".join(f"{gpus} GPUs" if gpus > 1 else "1 GPU" for gpus in GPUS) + " |", rows)


def of_serving() -> str:
    """An energy on servers of its own: GPUs of each kind that keep each other busy, and what goes between them."""
    rows = []
    for method, model in ((WITH_SMALL, SMALL), (WITH_LARGE, LARGE)):
        share = method.energy / method.total
        steps = UTILISATION * FLOP_RATE / method.denoiser  # of a GPU that has the denoiser alone
        tokens = steps * CANDIDATES * LENGTH
        rows.append(
            [
                model.name,
                f"{share:.0%}",
                f"{share / (1 - share):.1f}",
                f"{tokens:,.0f}",
                f"{tokens * answer_bytes() / 1e6:,.0f}",
                giga(CANDIDATES * LENGTH * model.cache, 2),
            ]
        )
    head = "| energy | share of the FLOPs | GPUs of it for each of the denoiser's | tokens a second to score | "
    return table(head + "MB of answers a second | GB of keys and values a row |", rows)


TRAINED_ROWS, TRAINED_DECIDED = 8, LENGTH // 2  # of a GPU and update; tokens decided at the fewest steps, 2


def of_training() -> str:
    """Training a head: bytes of a GPU, and seconds of an update, by numbers of GPUs."""
    blocks, tables = 2 * LLADA.blocks * LLADA.of_block, 2 * 2 * LLADA.of_table
    head = (4 + 4 + 4 + 4 + 4) * HEAD.parameters  # weights, gradients, two moments and the average, float32
    compute = TRAINED_ROWS * (LLADA.flops(LENGTH, LENGTH, TRAINED_DECIDED) + 3 * HEAD.flops(LENGTH, TRAINED_DECIDED))
    seconds = compute / (UTILISATION * FLOP_RATE)
    rows = []
    for gpus in GPUS:
        of_machine, machines = min(gpus, 8), max(1, gpus // 8)
        gathered = blocks * (of_machine - 1) / of_machine
        reduced = 2 * 4 * HEAD.parameters * (gpus - 1) / gpus
        slowest = NETWORK if machines > 1 else NVLINK
        rows.append(
            [
                str(gpus),
                giga(blocks / of_machine),
                giga(tables),
                giga(head),
                giga(gathered),
                f"{1000 * gathered / NVLINK:,.0f}",
                f"{1000 * reduced / slowest:,.0f}",
                f"{1000 * seconds:,.0f}",
            ]
        )
    names = "GPUs | GB of blocks | GB of embeddings and output | GB of the head | GB gathered a pass | ms of that"
    return table(f"| {names} | ms of the gradients' sum | ms of computing |", rows)


def filled(text: str) -> str:
    """Markdown whose paragraphs have lines of one length."""
    blocks = text.strip().split("\n\n")
    options = {"width": 120, "break_long_words": False, "break_on_hyphens": False}
    return "\n\n".join(block if block[0] in "#|" else textwrap.fill(block, **options) for block in blocks) + "\n"


def page() -> str:
    """The page, all of whose numbers are computed here."""
    flop_rate, memory_rate = f"{FLOP_RATE / 1e12:.0f} TFLOP/s", f"{MEMORY_RATE / 1e12:.2f} TB/s"
    nvlink, network = f"{NVLINK / 1e9:.0f} GB/s", f"{NETWORK / 1e9:.0f} GB/s"
    output_share = 2 * LLADA.of_table / LLADA.flops(1, LENGTH, 1)
    reading, computing = 2 * LLADA.parameters / MEMORY_RATE, BASE.total / (UTILISATION * FLOP_RATE)
    kept_scores = HEAD.scores(LENGTH, TRAINED_DECIDED)
    trained_logits = TRAINED_DECIDED * LLADA.vocabulary * 4
    return filled(f"""# LLaDA-8B with an energy on 1, 8 and 512 GPUs

This page is the output of `python docs/scaling.py`: change the numbers there. It is arithmetic, not measurement: no
published weights and no machine of several GPUs were at hand. GPUs are H100s with {MEMORY / 1e9:.0f} GB,
{flop_rate} in
dense bf16 and {memory_rate}; a GPU is assumed to compute {UTILISATION:.0%} of the time. Between GPUs of a machine go
{nvlink}, between machines {network} for each GPU. Sequences have {LENGTH} tokens, of the denoiser and of an
LM, that are
written in {STEPS} steps, {A_STEP} a step; there are k = {CANDIDATES} candidates. GB are 1e9 bytes.

## Models

{of_models()}

Weights are taken to be loaded in bf16: `dtype=torch.bfloat16` of `load_denoiser` and `TextEnergy.from_causal_lm`,
`--denoiser_dtype bfloat16` of the commands. The default is float32, with twice the bytes and a multiple of the
time. A FLOP is a multiplication or an addition; a token costs 2 for each weight of a matrix, and
attention to {LENGTH} tokens. The vocabulary of {LLADA.vocabulary:,} makes the output layer {output_share:.0%} of
a token, so it is applied only where tokens are decided. A denoiser that sees both sides has no cache of keys and
values: every step reads all
{LENGTH} tokens again.

## A step of one row

{of_steps()}

A head, or the denoiser alone, decides a step's {A_STEP} tokens. A causal LM judges whole texts (`scope:
sequence`), so
candidates are drawn at every masked position, {A_HALF} in the mean step and {LENGTH} in the first one, and the
LM reads k
texts a step: as much as k / {LLADA.parameters / SMALL.parameters:.1f} passes of the denoiser at 1B, and k
passes at 8B. Fewer candidates cost
less in proportion; fewer steps help all methods alike. Tokens a second are those of one GPU.

## 1 GPU: what fits, and what breaks first

{of_memory()}

Tokens are drawn from {rows_at_once(1, torch.device("cuda")):,} logits at a time, with {DRAWING} bytes each
(log-probabilities in float32, their exponentials, their sums in float64), whatever the batch.
An LM in the same process reads {SCORED_AT_ONCE} texts at once, whose logits are computed in parts, too. The last
column is the batch that fits in the remaining memory with a tenth of it free: **the first bottleneck is time**, not
memory. A likelihood bound of candidates holds the whole table of a decision, up to
{bound_bytes() / 1e9:.1f} GB a row. No method is bound by memory's speed: reading the
denoiser's weights takes {1000 * reading:.0f} ms, computing one row {1000 * computing:.0f} ms.

## 8 and 512 GPUs: tokens a second

{of_numbers()}

Rows are independent, so generation needs no communication: each process holds all weights and writes its own rows.
At {GPUS[-1]} GPUs what breaks first is not arithmetic but one of {GPUS[-1]} processes, and the file system
that takes their part files.
Rows are keyed by their index, so a restart, or another number of processes, writes the same rows.

| GPUs | engine |
| --- | --- |
| 1 | `edlm generate` |
| {GPUS[1]} | `accelerate launch --num_processes {GPUS[1]} sampling/generate.py`, or `torchrun` |
| {GPUS[-1]} | `torchrun` on each machine, or `edlm generate --engine ray`, which replaces workers that die |
| others, for the LM | vLLM or SGLang, and `--energy server:URL#MODEL` |
| any, for training | `accelerate launch --config_file configs/accelerate/fsdp2.yaml` |

## An energy on servers of its own

{of_serving()}

With `--energy server:URL#MODEL` the denoiser's GPUs hold no LM, and vLLM or SGLang scores the candidates over the
OpenAI completions protocol. The third column is how many GPUs of the LM keep pace with one of the denoiser. Texts and
log-probabilities travel as JSON, {answer_bytes()} bytes a token. What breaks first is the server's front end,
one process of Python
that writes the megabytes of the fifth column for each GPU of the denoiser: it takes several servers long before
the network is full. Keys and values of a row's candidates (last column) are bounded by the server's own batching. An
`AutoregressiveEnergy` in the same process is faster where LM and denoiser have the same tokens: it reads a common
beginning once.

## Training a head

`accelerate launch --config_file configs/accelerate/fsdp2.yaml training/train_energy.py` shards the blocks of
the frozen
denoiser over the GPUs of a machine (FSDP2) and replicates the head, {HEAD.parameters / 1e9:.2f}e9 parameters
in float32 with gradients, AdamW's
two moments and an average. With {TRAINED_ROWS} rows a GPU and update and {TRAINED_DECIDED} tokens decided (2
steps, the most):

{of_training()}

Blocks are gathered one at a time, in every pass, and not while the block before computes: an update takes the sum of
the milliseconds. Each machine holds the denoiser once (`fsdp2_machines.yaml`), so that only the head's
gradients leave
it, {4 * HEAD.parameters / 1e9:.1f} GB. What breaks first is the head's attention, which keeps its scores:
{kept_scores / 1e9:.1f} GB a row with {HEAD.heads} heads,
and as much again for each of their uses in the backward pass; then the logits, {trained_logits / 1e9:.2f} GB a
row in float32. A GPU holds the
whole denoiser in bf16 ({2 * LLADA.parameters / 1e9:.0f} GB), so that sharding makes room for rows; a denoiser
of 70B needs it.
""")


if __name__ == "__main__":
    print(page(), end="")
