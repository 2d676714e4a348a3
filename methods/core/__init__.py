"""Where query, key and value meet: steering, windows and block lists, exact attention by log-sum-exp, recording."""
