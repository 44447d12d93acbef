"""The page at ``/``: score answers, re-weigh objectives, browse evaluations, review explanations."""
