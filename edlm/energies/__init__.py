"""Energies judge candidates jointly: nats, low = plausible, weights are ``exp(-E)``."""

from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy, WeightedSum
from edlm.energies.callable import CallableEnergy, TextFunctionEnergy
from edlm.energies.chain_head import ChainHead
from edlm.energies.decision import Decision, Step
from edlm.energies.dit_sequence import DiTSequenceEnergy
from edlm.energies.exact import ExactEnergy, TokenwiseEnergy
from edlm.energies.loading import load_energy
from edlm.energies.markov_head import MarkovHead
from edlm.energies.mdlm_causal_lm import MDLMCausalLM
from edlm.energies.oracle import OracleEnergy
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.residual_head import ResidualHead
from edlm.energies.scalar_head import ScalarHead
from edlm.energies.sequence import SequenceEnergy
from edlm.energies.text import TextEnergy

__all__ = [
    "AutoregressiveEnergy",
    "CallableEnergy",
    "ChainHead",
    "Decision",
    "DiTSequenceEnergy",
    "Energy",
    "ExactEnergy",
    "MDLMCausalLM",
    "MarkovHead",
    "OracleEnergy",
    "PretrainedEnergy",
    "ResidualHead",
    "ScalarHead",
    "SequenceEnergy",
    "Step",
    "TextEnergy",
    "TextFunctionEnergy",
    "TokenwiseEnergy",
    "WeightedSum",
    "load_energy",
]
