"""How far ratings and rewards may be off: the posterior of linear heads, quantile heads, and the spread over gates."""
