"""The page: everything that is known of tuned kernels, as one HTML file that needs no network."""
