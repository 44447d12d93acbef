"""Own data without writing a file first: read the columns, guess objectives, draft a recipe, and say what is there."""
