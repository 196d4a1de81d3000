"""Training: objectives, the loop, and checkpoints that a run goes on from."""
