"""The container side: one module per job, and a dispatcher that imports only the job it runs."""
