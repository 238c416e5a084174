"""Runs on disk: what a run is called, who makes it, what its files hold."""
