"""From a trace to a scheduled module, and from there to machine code."""
