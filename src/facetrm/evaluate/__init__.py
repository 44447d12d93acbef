"""Floor 5: uses of a scorer that measure it: the doctor, which looks for scores that are wrong without an error."""
