"""What people look at: reads the files of run folders. Knows nothing of a run in memory, and never imports torch."""
