"""Energies in the loops of other libraries, none of which is imported here: adapters of `edlm.rerank_step`."""
