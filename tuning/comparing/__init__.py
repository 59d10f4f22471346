"""Tuned kernels beside those that others wrote: peers, benches, the file, the chart, the page."""
