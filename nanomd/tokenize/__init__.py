"""From MD files to microstates: features, TICA or VAMP, k-means."""
