"""The campaign behind docs/reliability.md: faults at random, and an oracle that knows nothing of the code."""
