"""What is tried, in which order, for how long, and which of it is kept."""
