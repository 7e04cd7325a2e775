"""``make quality``: how good the recommendations are, compared with peers on the same data."""
