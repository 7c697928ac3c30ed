"""Sweeps: search spaces, packed TPE search on Ray Tune, and the code that trains one pack with or without Ray."""
