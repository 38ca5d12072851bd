"""Extensions: what stands beside the pipelines, such as identity and health; none imports another."""
