"""The seam where query, key and value meet: steering, windows, exact attention with its log-sum-exp, recording."""
