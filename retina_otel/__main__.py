"""`python -m retina_otel` is `retina-otel`."""

from retina_otel.cli import main

main()
