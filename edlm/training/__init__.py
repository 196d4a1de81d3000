"""Training: objectives, the loop, and checkpoints that a run resumes from."""
