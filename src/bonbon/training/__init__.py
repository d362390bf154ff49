"""Making the policy answer like the best of n: objectives, packing and the trainer."""
