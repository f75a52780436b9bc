"""Spans: collected in this process, or written to files by the processes of a cluster and read back."""
