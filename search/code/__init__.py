"""The code of the user: what it says, and what it holds in memory. Nothing here runs it."""
