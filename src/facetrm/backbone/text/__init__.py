"""Chat templates, truncation and tokenisation: from messages to token ids and positions."""
