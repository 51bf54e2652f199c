"""The Lynx paper's figures on any model. Each module measures and draws one figure."""
