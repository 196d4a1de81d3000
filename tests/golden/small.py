"""Four letters at six positions; energies of every kind, with weights that depend on their names alone."""

from collections.abc import Callable
from functools import cache
from zlib import crc32

import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

import edlm
from edlm.corpus.languages import MarkovChain

LENGTH = 6
LETTERS = "abcd"
SIZE = MASK = len(LETTERS)
PIECES = ["<bos>", "<eos>", *LETTERS, "ab", "cd"]  # an LM's with other tokens than the denoiser's
POWERS = (MASK + 1) ** torch.arange(LENGTH)
INF = float("inf")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS, SCORES = 1.2 * random((MASK + 1) ** LENGTH, LENGTH, SIZE, seed=1), 1.5 * random((MASK + 1) ** LENGTH, seed=2)


def code(x: Tensor) -> Tensor:
    return (x * POWERS[: x.shape[-1]]).sum(-1)


def world() -> edlm.FunctionDenoiser:
    """Marginals from a table, sharper with time."""

    def log_probs(x_t: Tensor, t: Tensor) -> Tensor:
        return LOGITS[code(x_t), : x_t.shape[1]] * (0.5 + t.double())[:, None, None]

    return edlm.FunctionDenoiser(log_probs, MASK, SIZE)


def with_weights(module: nn.Module) -> nn.Module:
    """Random weights in float64, drawn with seeds from their names: independent of the order of initialisation."""
    for name, weight in module.named_parameters():
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        centre = 1.0 if weight.ndim == 1 and not name.endswith("bias") else 0.0
        weight.data = centre + 0.4 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return module.double().eval()


def checksum(module: nn.Module) -> int:
    """Checksum of the weights, but for their last digits: shows whether weights or computations changed."""
    total = 0
    for _, weight in sorted(module.named_parameters()):
        total = crc32((weight.detach() * 2**20).round().long().numpy().tobytes(), total)
    return total


@cache
def network() -> edlm.denoisers.MaskedLMDenoiser:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    shape = {"vocab_size": SIZE + 1, "pad_token_id": None, "num_hidden_layers": 3, "global_attn_every_n_layers": 1}
    model = with_weights(ModernBertForMaskedLM(ModernBertConfig(**sizes, **special, **shape)))
    return edlm.denoisers.MaskedLMDenoiser(model, mask_token_id=MASK)


def causal_lm(vocab_size: int = SIZE + 1) -> GPT2LMHeadModel:
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": vocab_size}
    return with_weights(GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=1)))


def autoregressive(**settings) -> edlm.AutoregressiveEnergy:
    return edlm.AutoregressiveEnergy(causal_lm(), bos_token_id=MASK, **settings)


def spell(ids: list[int]) -> str:
    return "".join(LETTERS[i] for i in ids)


def of_text() -> edlm.TextEnergy:
    pieces = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, [("a", "b"), ("c", "d")]))
    pieces.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<bos>", eos_token="<eos>")
    return edlm.TextEnergy(causal_lm(len(PIECES)), tokenizer, decode=spell)


def scored() -> edlm.CallableEnergy:
    """A table of candidates, of what is decided already, and the proposal."""
    return edlm.CallableEnergy(
        lambda candidates, x, log_q: SCORES[code(candidates)] + 0.5 * SCORES[code(x) // 2, None] + 0.3 * log_q
    )


def forbidding() -> edlm.CallableEnergy:
    """No two neighbours are the same."""

    def energy(candidates: Tensor, x: Tensor, log_q: Tensor) -> Tensor:
        same = (candidates[..., 1:] == candidates[..., :-1]) & (candidates[..., 1:] != MASK)
        return torch.where(same.any(-1), INF, SCORES[code(candidates)])

    return edlm.CallableEnergy(energy)


def oracle() -> edlm.energies.OracleEnergy:
    rows = random(SIZE + 1, SIZE, seed=3).softmax(1)
    return edlm.energies.OracleEnergy(MarkovChain(rows[:SIZE], rows[SIZE]))


def scalar_head() -> edlm.energies.ScalarHead:
    return with_weights(edlm.energies.ScalarHead.from_denoiser(network()))


def head(**settings) -> edlm.ResidualHead:
    return with_weights(edlm.ResidualHead.from_denoiser(network(), **settings))


ENERGIES: dict[str, Callable[[], edlm.Energy | None]] = {
    "base": lambda: None,
    "scored": scored,
    "forbidding": forbidding,
    "oracle": oracle,
    "text_function": lambda: edlm.CallableEnergy.on_text(
        lambda texts: [0.7 * text.count("a") - 0.4 * text.find("cd") for text in texts], decode=spell
    ),
    "autoregressive": autoregressive,
    "autoregressive_eos": lambda: autoregressive(eos_token_id=3),
    "carry_over": lambda: autoregressive(carry_over=True),
    "text": of_text,
    "sum": lambda: 0.5 * autoregressive() + 0.7 * scored(),
    "head": head,
    "head_two_blocks": lambda: head(num_blocks=2),
    "head_cold": lambda: head(start="cold", width=8, num_heads=2),
    "head_blind": lambda: head(blind=True),
    "head_unnormalized": scalar_head,
    "sequence": lambda: with_weights(edlm.SequenceEnergy.from_denoiser(network())),
    "sum_of_heads": lambda: edlm.energies.WeightedSum([(0.5, head()), (0.5, scalar_head()), (0.2, scored())]),
}
ON_NETWORK = ("head", "sequence", "sum_of_heads", "network")


def denoiser_of(name: str) -> edlm.Denoiser:
    return network() if name.startswith(ON_NETWORK) else world()
