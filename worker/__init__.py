"""The back end: claims turns and runs them against the configured providers."""
