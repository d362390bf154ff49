"""Client of servers that speak OpenAI's API: requests, retries, and responses."""
