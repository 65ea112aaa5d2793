"""What all else stands on: errors, configurations, units, progress, files."""
