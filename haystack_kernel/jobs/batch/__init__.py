"""Jobs on Google Cloud Batch: requests, attempts, events, logs, and the executor that ties them together."""
