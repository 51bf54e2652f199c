"""The Lynx paper's figures on a model of one's own: each module measures one, and draws what was measured."""
