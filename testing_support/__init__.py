"""What tests and benchmarks share: servers, workers, tickers. It imports neither of them."""
