"""The systems that are measured, each behind `System`."""
