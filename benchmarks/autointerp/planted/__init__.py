"""What the prompts of explainers carry, on RecoverBench's planted features, as far as a scripted reader can tell."""
