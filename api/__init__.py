"""The front end: accepts agents, sessions and turns, and lets clients poll and tail them."""
