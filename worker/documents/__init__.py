"""Documents: fetched from URLs, and read into text."""
