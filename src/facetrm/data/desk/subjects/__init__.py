"""What the desk can talk about: topics of advice and subjects of short texts."""
