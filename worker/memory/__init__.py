"""Memory: what goes into banks, and how it is found again."""
