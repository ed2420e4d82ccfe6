"""What `bridge-runner check` found, as others read it: Markdown, JUnit XML, GitHub's workflow commands."""
