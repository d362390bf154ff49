"""Best-of-n alignment for language models: `import bonbon` is light, each name loads when used."""

__version__ = "0.1.0"
