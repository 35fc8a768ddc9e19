"""What others would build or take instead."""
