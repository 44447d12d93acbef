"""The doctor: reads a model's files, runs the same conversations in many ways, and names what makes scores wrong."""
