"""The machine: files, locks and processes, and what differs between systems."""
