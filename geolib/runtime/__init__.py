"""Where results are kept, and how a process is set up."""
