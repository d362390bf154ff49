"""Servers that speak OpenAI's API: the client, its retries, and the answers it takes."""
