"""The report of a study: a self-contained HTML page, its figures, scores and analysis."""
