"""Floor 2: which of two replies is better in which capability, from an LLM behind an OpenAI-compatible API."""
