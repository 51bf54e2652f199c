"""A dense llama cut into experts: read, cut, its routers trained, judged. Each module is one step."""
