"""Published models that are no masked diffusion over one law of tokens, and why they are refused."""

from edlm.denoisers.checkpoint import Checkpoint

_UNIFORM = "its noise replaces tokens by others, not by a mask"
_EDITS = "it rewrites tokens that it has written"
# Part of the model type or of an architecture, in lower case -> what it is, and why not.
_TYPES = {
    "duo": ("DUO", _UNIFORM),
    "udlm": ("UDLM", _UNIFORM),
    "gidd": ("GIDD", "its noise replaces tokens by others too"),
    "diffusion_gemma": ("DiffusionGemma", _EDITS),
    "diffusiongemma": ("DiffusionGemma", _EDITS),
    "llada21": ("LLaDA2.1", _EDITS),
    "wedlm": ("WeDLM", "it moves the tokens it has written before those that are masked"),
    "lfm2": ("LFM2", "its short convolutions read neighbours that an attention mask does not hide"),
}
_NAMES = {"llada2.1": ("LLaDA2.1", _EDITS)}  # its config is that of LLaDA2.0


def check_served(checkpoint: Checkpoint) -> None:
    """ValueError, which says why, for a model that is known and not served."""
    kinds = [checkpoint.model_type or "", *(checkpoint.config.get("architectures") or ())]
    for table, texts in ((_TYPES, kinds), (_NAMES, [checkpoint.name])):
        for part, (title, reason) in table.items():
            if any(str(text).lower().startswith(part) for text in texts):
                raise ValueError(f"{checkpoint.path} is a {title} model, which is not served: {reason}")
