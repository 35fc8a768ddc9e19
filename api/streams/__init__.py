"""How clients follow turns: one shared reader per process, frames, polls."""
