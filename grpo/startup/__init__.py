"""What happens before a command: the companion package is found, and the working folder is left out of the path."""
