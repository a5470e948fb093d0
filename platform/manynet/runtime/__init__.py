"""Ray sessions, cluster nodes and jobs."""
