"""A graph of jobs and the launchers that run it. Knows jobs, not studies."""
