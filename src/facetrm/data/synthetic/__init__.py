"""What all generators with a known truth share: parts, raters, annotators and their settings."""
