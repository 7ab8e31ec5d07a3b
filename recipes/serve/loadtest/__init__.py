"""What the load test is made of: a problem with known answers, servers, clients and a report."""
