"""The parts of tools/miniature.py: the stages, what they measure, and the tables."""
