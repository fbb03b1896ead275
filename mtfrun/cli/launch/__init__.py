"""The command launch: the processes of one run on this machine, their output, end and restart."""
