"""RecoverBench: worlds with planted features, and how often tools and investigators find what is there."""
