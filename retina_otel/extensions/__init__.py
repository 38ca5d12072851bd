"""Extensions: what stands beside the pipelines, as identity and health; none imports another."""
