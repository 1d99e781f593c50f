"""What is known of an env: spaces, state layout, reward, termination, and MuJoCo's own answers."""
