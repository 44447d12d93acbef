"""The verb ``eval``: systems by name, stored scores, results with intervals, and gates for continuous integration."""
