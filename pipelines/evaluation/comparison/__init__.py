"""Results of evaluations and the paper's tables side by side: as a page, as Markdown, as CSV, as data."""
