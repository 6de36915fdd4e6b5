"""What a model is: bundle and class table; and how it is run: engines."""
