"""What benchmarks share: their frame, clocks, memory, and the networks and evaluations that several of them run.

Every other file of ``benchmarks`` is a script. Ray puts a script's folder on its workers' path, so functions from here
reach them by name.
"""
