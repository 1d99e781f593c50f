"""World models as Gymnasium envs."""
