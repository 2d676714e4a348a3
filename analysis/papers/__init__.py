"""5. Scores beside the papers: published tables, claims, and where paper and code differ."""
