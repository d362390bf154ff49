"""Training the policy to answer like the best of n: objectives, examples and the trainer."""
