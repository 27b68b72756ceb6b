"""Training: what one step does, the loop around it, and what it takes not to lose work."""
