"""Messages to token ids and positions."""
