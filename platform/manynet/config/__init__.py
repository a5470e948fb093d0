"""What a user asks for: the settings of each step, as Python arguments and as YAML files."""
