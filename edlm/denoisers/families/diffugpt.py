"""DiffuGPT: as DiffuLLaMA, on GPT-2."""

from edlm.denoisers.families.diffullama import family_of

FAMILY = family_of("diffugpt", "gpt2")
