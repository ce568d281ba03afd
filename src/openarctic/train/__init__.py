"""Training: recipes, the loop, checkpoints, supervised tuning, upcycling."""
