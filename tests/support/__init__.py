"""What tests share: workspaces, fakes named as such, containers, and runs of jobs."""
