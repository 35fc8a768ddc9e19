"""The turn log: the truth about every turn, in Redis streams behind Lua scripts."""
