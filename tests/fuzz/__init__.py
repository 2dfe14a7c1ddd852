"""The standing fuzz: random damage, settings, inputs and kills against the real command line. See __main__.py."""
