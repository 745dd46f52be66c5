"""Experiments side by side, significance tests and the leaderboard."""
