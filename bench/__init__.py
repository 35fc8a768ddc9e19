"""The benchmark: `make bench`, `make bench-quick`, `make profile`."""
