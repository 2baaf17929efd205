"""What a study found, read from it and shown: figures, findings, plots, one page. Nothing here changes a study."""
