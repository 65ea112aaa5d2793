"""Pictures, and one self-contained HTML page."""
