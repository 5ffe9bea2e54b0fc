"""What the commands share: parameters, options, checks of outputs, reports, and how a process ends."""
