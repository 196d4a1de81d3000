"""A masked LM with the tokenizer of another corpus, which keeps what its embeddings know of words."""

from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser, counting_module, special_tokens
from edlm.denoisers.vocabulary import token_id


@torch.no_grad()
def replace_vocabulary(denoiser: Denoiser, tokenizer: Any) -> MaskedLMDenoiser:
    """The network for another tokenizer: each token starts as the mean of the old tokens that spell its text.

    That holds for embeddings and output layer. A word that the old tokenizer has, alone, keeps its row; upper case and
    a leading blank are as the old tokenizer takes them. The mask starts as the old mask, the separator as the old one.
    What the old tokenizer cannot spell, such as white space or a part of a character, starts as the mean of all tokens.

    Args:
        denoiser: A masked LM of transformers with its tokenizer; its network is changed in place.
        tokenizer: The other tokenizer.

    Raises:
        ValueError: another kind of denoiser, or one without a tokenizer.
    """
    if not isinstance(denoiser, MaskedLMDenoiser) or denoiser.tokenizer is None:
        raise ValueError(f"denoiser must be a masked LM of transformers with its tokenizer, got {denoiser.name}")
    network = denoiser.network
    shares = _shares(denoiser.tokenizer, tokenizer, denoiser.vocab_size)
    started = [shares @ table for table in _tables(network)]
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table, rows in zip(_tables(network), started, strict=True):
        table.copy_(rows)
    counting = counting_module(network)
    padding = None if counting is None else counting.padding_idx
    network.config.update({**special_tokens(tokenizer), "pad_token_id": padding})
    return MaskedLMDenoiser(network, tokenizer, name=denoiser.name)


def _tables(network: Any) -> list[Tensor]:
    """Weights with a row, or a number, for each token; tied ones twice."""
    output = network.get_output_embeddings()
    tables = (network.get_input_embeddings().weight, output.weight, output.bias)
    return [table.data for table in tables if table is not None]


def _shares(old: Any, new: Any, width: int) -> Tensor:
    """Share of each old token in the start of each new one, rows that sum to 1, ``[new, old]``, sparse."""
    texts = [new.decode([i], clean_up_tokenization_spaces=False) for i in range(len(new))]
    pieces = old(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    for kind in ("pad", "bos", "sep", "eos", "mask"):
        found = [token_id(old, other) for other in (kind, "sep", "eos")]
        if (i := token_id(new, kind)) is not None:
            pieces[i] = [x for x in found if x is not None][:1]
    pieces = [ids or list(range(len(old))) for ids in pieces]
    rows = torch.repeat_interleave(torch.tensor([len(ids) for ids in pieces]))
    values = torch.cat([torch.full((len(ids),), 1 / len(ids)) for ids in pieces])
    columns = torch.tensor([i for ids in pieces for i in ids])
    places = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(places, values, (len(new), width), check_invariants=True).coalesce()
