"""The types of requests and answers, in the shapes of Llama Stack's Agents API."""
