"""Contents, origin, test results and known vulnerabilities of images."""
