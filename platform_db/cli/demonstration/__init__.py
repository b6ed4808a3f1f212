"""What ``platform-db demo`` needs: a directory, workers that race, and a chart of what they do."""
