"""SQL of strangers over database files: what they may do, for how long, and with how much memory."""
