"""How the models that come with lynx_jax were made."""
