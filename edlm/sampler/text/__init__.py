"""Text in and out: prompts, blocks, transcripts."""
