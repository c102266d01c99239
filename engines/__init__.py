"""What a deployment needs and nothing else: the artifact, the buckets, the scheduler, the runner and its backends."""
