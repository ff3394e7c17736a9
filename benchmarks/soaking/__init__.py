"""What `soak.py` is made of: servers, load, samples, verdict, chart."""
