"""Many workloads as one job: what is tuned, in which order, and how far it has come."""
