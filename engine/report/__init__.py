"""A run's results as one HTML page that needs nothing else: scores, plots, pictures, and how they were made."""
