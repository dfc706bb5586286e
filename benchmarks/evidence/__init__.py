"""What the studies share: statistics, claims, words, formats and publishing."""
