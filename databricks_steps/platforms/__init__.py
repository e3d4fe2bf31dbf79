"""Where steps run: one package a platform, each with the same files behind the same ports."""
