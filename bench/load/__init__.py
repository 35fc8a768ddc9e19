"""The load generator: what a reply shall be, a cheap client, and how replies are asked for."""
