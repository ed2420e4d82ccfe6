"""Many runs: plan, compile, execute, write, resume."""
