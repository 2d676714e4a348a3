"""3b. Recordings and models -> attention tables: what tokens look at, which layers respond to the words, which blocks
look at the foreground."""
