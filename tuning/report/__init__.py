"""What a study came to, as a page, Markdown, CSV and a recipe of the best trial."""
