"""Runners: what executes a recurrent component. `torch` needs nothing but torch."""
