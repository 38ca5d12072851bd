"""MetricsConfigurations (`retina.sh/v1alpha1`): read, checked, merged, followed."""
