"""The server: an OpenAI endpoint over an engine.

`create_app` makes the ASGI application, `run_server` serves it until a signal ends it.
"""
