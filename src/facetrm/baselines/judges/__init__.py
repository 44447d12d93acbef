"""LLMs as judges behind an API: pair by pair, by rating, by ranking, alone or by vote."""
