"""Rule files to start from: which rules suit a network, bounds from good ones, and the commented text."""
