"""The report of evaluations: which model is ahead on what, how sure that is, and where models differ."""
