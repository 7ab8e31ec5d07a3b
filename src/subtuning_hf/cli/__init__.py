"""The command line. Importing it loads no command, and a command loads torch only when it runs."""
